"""The life of a run on disk: its folder, its record, what a later session needs to go on."""
