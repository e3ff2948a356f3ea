"""Jobs as files: reading with positions, the plan of an application, and the text of an export.

::

    paths ─► sources ─► texts
    text ─► documents.read ─► jobs_file.read_file ─► plan.make ─► steps (performed by `api.files`)
    jobs ─► jobs_file.fields_of ─► export.text               schema.schema ─► JSON schema

All modules here except `sources` are pure. They take the fields of a job from
`daybook.jobs.model.FIELDS`, so a new field of a job needs no change in this package.
"""
