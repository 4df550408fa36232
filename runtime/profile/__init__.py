"""The profile of a run: events in columns, how they are stored, and what they tell.

`record` makes a `Profile` with the machine, `store` keeps it in a folder, the other modules compute on its columns:
`summary` (totals), `causes` (why each event started when it did, critical path, idle time), `operators` (per framework
node and layer), `memory` (what lies where and when), `advice`, `what_if` and `diff`. Nothing here prints or draws.
"""
