"""Tables of two databases compared: by digests of ranges, then row by row where those differ."""
