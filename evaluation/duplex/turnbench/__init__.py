"""TurnBench (arXiv 2608.25218): when a speaker's turn ends, and when a speaker interrupts the other.

`gold` derives the events from the tracks of three annotators, `scoring` scores times of predicted
events, `sweep` chooses thresholds on probabilities, `conversations` reads the data as published,
`files` writes and checks what the benchmark accepts. Written from the published rules
(SesameAILabs/turnbench, MIT). All times are in seconds, latencies in milliseconds.
"""

TASKS = ("eot", "int")
"""End of turn; interruption."""
SPEAKERS = (1, 2)
