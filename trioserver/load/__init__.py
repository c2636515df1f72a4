"""The load tester: thousands of simulated clients, which measure what a server does.

The pieces, from the top: `conductor` starts worker processes and puts together what they found;
`worker` is one of these; `generator` takes a worker's clients through connecting, asking and
storms; `client` is one of them; below are frames, sockets, tokens, the pace, and the measures.
`report` draws the page. The command is `trioserver load`, in `trioserver.cli.commands.load`.

A process may have thousands of clients, so no client has a task of its own once it is ready: what
happens on its socket calls a plain function.
"""
