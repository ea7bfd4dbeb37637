"""Data: from a file, a URL or a function to the arrays that a job trains on.

All data goes one way::

    reader -> dataset folder -> source -> split or family -> encoded arrays -> one NPZ file

- A reader (``read_*.py``) checks an uploaded file once and writes a dataset folder: facts and plain data.
- ``columns.py`` says what the columns of a table hold, and ``forms.py`` how their numbers and dates are written.
- ``sources.py`` opens a dataset folder or a bundled dataset, and makes numbers of its rows.
- ``families.py`` groups the rows of a source into tasks.
- ``prepare.py`` does all of this for a job, and splits the rows of one without a family; ``prepared_files.py`` writes
  and maps the NPZ file.

To add a file format, see ``upload.py``. To add a bundled dataset of scikit-learn, add it to ``BUNDLED`` in
``catalog.py``; a differential equation needs an entry in ``EQUATIONS`` in ``equations.py`` too.
"""
