"""Published numbers, the papers' layout, and the papers' questions asked of records."""
