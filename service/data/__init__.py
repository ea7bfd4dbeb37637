"""From files and tables to the encoded arrays of a split."""
