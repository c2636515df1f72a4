"""The load tester: thousands of simulated clients that measure a server.

From top to bottom: `coordinator` starts worker processes and merges their results; `worker` is one
of these processes; `generator` generates its load: connecting, requests, reconnect storms;
`client_pool` has its clients, and `simulated_client` is one of them. Below these are frames,
sockets, tokens, the pace, counts and histograms. `report` makes the page. The command is
`trioserver load`, in `trioserver.cli.commands.load`.

A process has thousands of clients. Therefore a client has no task of its own once it is READY;
events of its socket call plain functions.
"""
