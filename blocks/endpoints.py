"""Prefect blocks of secrets, bound to their hosts, and of the destinations of callbacks."""

from __future__ import annotations

from prefect.blocks.core import Block

from daybook.delivery import destinations
from daybook.delivery.destinations import Destination, DestinationSettings
from daybook.http.secrets import Secret
from daybook.resources import secrets
from daybook.resources.secrets import SecretSettings


# The settings are the first base; see agents.py.
class SecretBlock(SecretSettings, Block):
    """A secret that jobs refer to by name, and the hosts that it may be sent to."""

    _block_type_name = secrets.TITLE
    _block_type_slug = secrets.SLUG
    _description = secrets.DESCRIPTION
    _code_example = """```python
from blocks.endpoints import SecretBlock

await SecretBlock(value="…", hosts=["api.example.org"]).asave("BLOCK_NAME")
```"""

    def get_secret(self) -> Secret:
        """The secret; raises `InvalidInput` where its settings are not legal."""
        fields = {name: getattr(self, name) for name in SecretSettings.model_fields}
        return secrets.build(self._block_document_name or "unsaved", fields)


class DestinationBlock(DestinationSettings, Block):
    """Recipient of callbacks: its signing secret, token, timeout and number of attempts."""

    _block_type_name = destinations.TITLE
    _block_type_slug = destinations.SLUG
    _description = destinations.DESCRIPTION
    _code_example = """```python
from blocks.endpoints import DestinationBlock

made = DestinationBlock(url="https://ops.example.org/hook", secret="whsec_…")
await made.asave("BLOCK_NAME")
```"""

    def get_destination(self) -> Destination:
        """The destination; raises `InvalidInput` where its settings are not legal."""
        fields = {name: getattr(self, name) for name in DestinationSettings.model_fields}
        return destinations.build(self._block_document_name or "unsaved", fields)
