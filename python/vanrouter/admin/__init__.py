"""
The door for operators: a unix socket in the directory of a running site. ``docs/architecture.md`` has the methods.

    protocol   lines of JSON: requests, results, errors (pure)
    path       a name for the socket that fits, however deep the directory lies
    client     blocking, standard library only: what ``van`` uses
    server     trio: what the running site offers

Only the user who runs the site, and root, get an answer. Whoever gets one may do everything: there are no lesser rights here.
"""
