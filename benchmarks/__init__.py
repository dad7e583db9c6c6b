"""How long Segue takes beside what people do without it: `python -m benchmarks NAME`.

Each file here without a leading underscore is a benchmark and exports BENCHMARK (see `benchmarks._rounds`).
"""
