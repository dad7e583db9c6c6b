"""Plans: read from files, ordered as graphs, judged before anything runs. Values in, values out."""
