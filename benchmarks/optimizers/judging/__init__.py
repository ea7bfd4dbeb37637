"""The tasks of the judging part: none of them was looked at while WarpAdam was designed."""
