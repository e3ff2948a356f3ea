"""Jobs: the model that users write, its rules, and the ledger rows that store it.

`model` defines the whole job: a schedule, an action (`actions`), a policy (`daybook.policies`) and
notifications (`notify`). `upcoming` and `lateness` apply the policy to due times. `limits`
restricts the jobs that agents own, and `provenance` records who wrote a job's targets. Only
`store`, `scheduled` and `summaries` use the database.
"""
