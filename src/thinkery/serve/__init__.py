"""The DeepSeek API over our own engine or vLLM: HTTP in, core types through, HTTP out.

server.py     a process that listens, drains and stops
guard.py      who may come in: hosts, keys, sizes, rates
app.py        the endpoints
wire.py       what clients send;   answers.py: what they get;   refusals.py: what they get instead
reading.py    a request as jobs, by the rules of a profile (profiles.py)
door.py       jobs to replicas and their news back;   inbox.py: where a request's task finds them
replica.py    a process that owns engines and batches jobs;   choice.py: one sample under way there
risk.py       who reads an answer before it is shown
ledger.py     keys, credit, and what every request cost
"""
