"""Small servers that do the same over WebSocket: the floor, our listener alone, and peers. `common.py` says what."""
