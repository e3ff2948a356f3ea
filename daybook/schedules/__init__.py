"""Schedules and due times: cron, interval and one-time schedules as instants. Pure.

`schedule` parses and prints a schedule, `phrases` reads plain English, `cron` validates
expressions, `due` computes due times across daylight saving, `bounds` limits them, `zones` converts
wall-clock times, `durations` parses durations, and `descriptions` describes a schedule in English.
Instants are aware datetimes in UTC; every schedule carries the IANA zone in which it is
interpreted.
"""
