"""What the tree promises as a whole: which way dependencies point, how big things are, that documents are true."""
