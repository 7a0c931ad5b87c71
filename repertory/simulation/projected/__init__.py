"""Projections in a simulated run. Needs the extra ``projections``; imported only if the system projects something.

Each projection has two projectors, which race for all of its partitions over one database: SQLite in memory, real and
transactional. ``database`` is that, with a name for each of its steps; ``faults`` says what may happen at each of them;
``watched`` notes what each transaction does; ``reading`` reads the log; ``run`` drives all of them: enter it first.
``rules`` compares, at the end, what was applied with the journals, and the rows with those of one undisturbed run.
"""
