"""Systems: what a paper changes beside the start, so that it can be crossed with every start; one paper a file."""
