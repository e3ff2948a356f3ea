"""What a job needs at the other end: secrets, bound to the hosts that they may be sent to."""

from __future__ import annotations

from prefect.blocks.core import Block

from daybook.outgoing import secret_blocks
from daybook.outgoing.secret_blocks import SecretSettings
from daybook.outgoing.secrets import Secret


# The settings come first among the bases, as in agents.py.
class SecretBlock(SecretSettings, Block):
    """A secret that jobs refer to by name, and the hosts that it may be sent to."""

    _block_type_name = secret_blocks.TITLE
    _block_type_slug = secret_blocks.SLUG
    _description = secret_blocks.DESCRIPTION
    _code_example = """```python
from blocks.endpoints import SecretBlock

await SecretBlock(value="…", hosts=["api.example.org"]).asave("BLOCK_NAME")
```"""

    def get_secret(self) -> Secret:
        """The secret; raises `Refused` where its settings are not legal."""
        fields = {name: getattr(self, name) for name in SecretSettings.model_fields}
        return secret_blocks.build(self._block_document_name or "unsaved", fields)
