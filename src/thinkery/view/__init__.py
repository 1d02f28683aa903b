"""The web page of runs (`thinkery view`): read-only, offline, no build step, and without the training stack.

`library` finds and reads runs, `pages` says what each page shows, `app` serves it, `export` writes it as files.
"""
