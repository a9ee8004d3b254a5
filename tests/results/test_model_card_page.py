"""docs/guides/model-card.md holds the tables that configs/model_card.yaml makes."""

from pathlib import Path

from matformer_lab.results.model_card import benchmark_table, missing_table, model_card

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "model-card.md"


def test_the_pages_tables_are_those_of_the_card() -> None:
    """`python -m matformer_lab.results.model_card` prints them anew."""
    page = PAGE.read_text()
    for table in (benchmark_table(model_card()), missing_table(model_card())):
        assert table in page
