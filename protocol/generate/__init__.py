"""What is made from the code: schemas, the AsyncAPI document, the tables in ``docs/protocol.md``.

``python -m protocol.generate`` writes them, ``--check`` compares.
"""
