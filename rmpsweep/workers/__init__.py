"""Who does the work: `driver` hands jobs to the workers of a pool, and loses none.

Read `protocol` first (what driver, pools and workers say to one another), then `driver` with `schedule` (what is done
next), `crew` (by whom) and `state`; `events` is what a run tells outwards. `jobs` are what is done, `worker` does them,
with `loading` before and `gather` after; `pools` run workers in this process or on Ray.
"""
