"""Programs that run inside a project, with its own Python: they ask its framework for SQL and import nothing of Segue.

Each is given to `python -c` as text, with a file for the answer (JSON) and the question (JSON) as arguments. They are
written for Python 3.9 and newer.
"""
