"""What a study is: its plan file, its protocol, the grid and selection of learning rates, compaction, folders."""
