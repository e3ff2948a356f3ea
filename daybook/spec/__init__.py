"""What a job is, and when it is due: pure, without SQL, Prefect or network.

`job` is the whole, made of `schedule` (text to schedule and back), `policy`, and an action. `due`
has the due times, `lateness` judges one that comes late, `words` says a schedule in English.
Instants are aware datetimes in UTC; every schedule carries the IANA zone it is read in.
"""
