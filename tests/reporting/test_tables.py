"""Tables: one set of cells for every reader."""

from lecun_ablate.reporting.tables import Table

TABLE = Table.of(
    [
        {"arm": "a|b", "error": "6.44", "verdict": "better"},
        {"arm": "c", "error": "-", "verdict": ""},
    ],
    words=["arm", "verdict"],
)


def test_markdown_aligns_numbers_right_and_escapes_cells():
    assert TABLE.markdown().splitlines() == [
        "| arm | error | verdict |",
        "| --- | --: | --- |",
        "| a\\|b | 6.44 | better |",
        "| c | - |  |",
    ]


def test_a_reader_gets_the_columns_it_asks_for_in_its_order():
    some = TABLE.only(["verdict", "arm"])
    assert some.names == ["verdict", "arm"] and some.column("arm") == ["a|b", "c"]
    assert some.records()[0] == {"verdict": "better", "arm": "a|b"}
    assert [column.words for column in some.columns] == [True, True]
