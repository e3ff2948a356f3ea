"""Templates: jobs that a user gets by answering two or three questions (`daybook new`, `page`).

A template is a folder with a `template.yaml` (`library.Template`). Daybook's are in the folder
`library`, and a user's own in the home's folder `templates`.

To add a template, write its folder in `library`.
"""

from daybook.feature import Commands, Feature

FEATURE = Feature(
    package=__name__,
    commands=(Commands("More", "commands", ("new",)),),
    operations="client:Templates",
    pages="page",
    new_job_links=(("/jobs/new/templates", "Start from a template"),),
)
