"""Schedules and their due times; no module here uses the ledger, Prefect or the network.

- `schedule` parses and prints a schedule; `phrases` reads plain English, and `days` its days.
- `cron` validates expressions.
- `due` computes due times across daylight saving; `bounds` limits due times.
- `zones` converts wall-clock times; `durations` parses durations.
- `descriptions` describes a schedule in English.

Instants are aware datetimes in UTC. Every schedule carries the IANA zone in which it is
interpreted.
"""
