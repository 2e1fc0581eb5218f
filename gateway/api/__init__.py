"""HTTP by resource (docs/protocol.md): REST on Litestar, event streams, the page."""
