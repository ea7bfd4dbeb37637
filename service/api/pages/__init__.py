"""The pages for people: home, a new job, a job, and the report of a job, which is one file to keep.

They are rendered here, from what the API would answer. The script ``page.js`` sends files and specs to the API, and
loads a page again while something in it moves; without it, the pages can still be read.
"""
