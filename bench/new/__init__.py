"""First files of a method or a task of the user's own, in a folder outside the package."""
