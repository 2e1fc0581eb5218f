from tests.support.nats import nats_server, nats_session

__all__ = ["nats_server", "nats_session"]
