"""JSON from elsewhere, read strictly."""

from matformer_lab.common.files.strict_json import strict_json
from matformer_lab.common.files.written_json import written_json


def test_minus_zero_is_no_integer() -> None:
    """safetensors, whose parser is serde's, refuses it as a shape or an offset."""
    assert type(strict_json(b'{"n": -0}', "x")["n"]) is float
    written = strict_json(b'{"n": -0}', "x", as_written=True)
    assert written_json(written) == '{\n  "n": -0\n}'
