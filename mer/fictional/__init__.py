"""Fictional corpora and macro-expression sets in the layouts in which the real ones circulate.

`layouts` and `macro_sets` write the files, whatever the pictures show; `faces` renders people for them; `rehearsal`
says which people and clips `make rehearse` needs, and writes all of it.
"""
