"""Other libraries' models with deferred optimizers: the code of docs/clients.md, timed beside their own AdamW."""
