"""
The commands ``van`` (for people) and ``vanrouter`` (for containers).

One file per noun. A command talks to a running site only through the admin client, writes resources only through ``vanrouter.stores``, and
never touches the data plane. Importing this package imports nothing: ``van --help`` pays for click and for nothing else, and every heavy or
Linux-only import stands inside the command that needs it.

    main      the two groups, and which file holds which command
    base      what all commands share: -p -n -o, exit codes, how an error looks
    values    what a flag may hold: durations, HOST:PORT, names, costs
    output    tables, json, yaml, names; colour on a terminal only
    running   the site that -n names: its directory, its socket, waiting for what it reports
"""
