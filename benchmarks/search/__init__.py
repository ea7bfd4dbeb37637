"""Does the search find the best of every arm, and can its verdict be trusted? Judged on real tables.

For each table and arm, a grid of configs is trained once on sixteen splits and seeds, with the validation and test loss
at every point (``dense.py``). On these dense tables, searches and verdicts can be repeated many times in seconds:

- regret: the test loss of the finalist of a search over that of the config that is best by validation over all splits,
  for our search and for plain TPE, GP, random search, ASHA and Hyperband with as many training steps (``searches.py``);
- the verdict: AdamW against AdamW, and against itself with its losses multiplied by 0.97 to 0.8 (``verdicts.py``).

The tables are in two parts. Those of ``design`` were looked at to choose the rules, those of ``judge`` were not.

    python -m benchmarks.search live      # runs whole jobs with two equal arms; half a minute each
    python -m benchmarks.search dense     # trains what is missing: about ten minutes a table on one core
    python -m benchmarks.search           # repeats the searches and verdicts; writes results.json
"""
