"""Prefect blocks of secrets (each bound to its hosts), and of callback destinations."""

from __future__ import annotations

from prefect.blocks.core import Block

from daybook.delivery import destinations
from daybook.delivery.destination_settings import DestinationSettings
from daybook.delivery.destinations import Destination
from daybook.http.secrets import Secret
from daybook.resources import secrets
from daybook.resources.secrets import SecretSettings


# The settings are the first base; see agents.py.
class SecretBlock(SecretSettings, Block):
    """Secret that jobs refer to by name, and the hosts that may receive it."""

    _block_type_name = secrets.STORE.title
    _block_type_slug = secrets.STORE.slug
    _code_example = """```python
from blocks.endpoints import SecretBlock

await SecretBlock(value="…", hosts=["api.example.org"]).asave("BLOCK_NAME")
```"""

    def get_secret(self) -> Secret:
        """Return the secret; raise `InvalidInput` if its settings are invalid."""
        return secrets.build(*secrets.STORE.read_block(self))


class DestinationBlock(DestinationSettings, Block):
    """Receiver of callbacks, with its signing secret, token, timeout and number of attempts."""

    _block_type_name = destinations.STORE.title
    _block_type_slug = destinations.STORE.slug
    _code_example = """```python
from blocks.endpoints import DestinationBlock

made = DestinationBlock(url="https://ops.example.org/hook", secret="whsec_…")
await made.asave("BLOCK_NAME")
```"""

    def get_destination(self) -> Destination:
        """Return the destination; raise `InvalidInput` if its settings are invalid."""
        return destinations.build(*destinations.STORE.read_block(self))
