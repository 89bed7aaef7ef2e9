"""Sentences are counted as a reader counts them; limits and listed terms are told with file and line."""

from pathlib import Path

import pytest

from tools import readability

PAGE = """# A heading of no sentence

One sentence of six words here. Another, with `code with spaces` and
[a link](https://example.org/a/b.c?d) in it: ten words?
He said e.g. this. <!-- a comment. Two. -->

- an item
- another item. With two sentences.

| a table | of no sentence. |
|---|---|

```
code is no sentence. Not at all.
```

> A quote has
> five words.
"""


def sentences(text: str) -> list[tuple[int, int, int]]:
    return [(one.line, one.words, one.pauses) for one in readability.sentences_of(text, "page.md")]


def test_sentences_have_lines_words_and_pauses() -> None:
    assert sentences(PAGE) == [(3, 6, 0), (3, 10, 2), (5, 4, 0), (7, 2, 0), (8, 2, 0), (8, 3, 0), (17, 5, 0)]


def test_a_fence_ends_only_with_its_own_kind() -> None:
    assert sentences("````\n```\nno. no.\n```\n````\nYes.\n") == [(6, 1, 0)]
    assert sentences("```\n```yaml\nno.\n```\nYes.\n") == [(5, 1, 0)]


def test_a_number_or_a_name_with_a_full_stop_is_one_word() -> None:
    assert sentences("Version 2.13.0 of train.py, of D. Knuth et al. in 1,000 runs.\n") == [(1, 12, 1)]


def test_lines_are_measured_without_addresses_and_code() -> None:
    address = f"[here](https://example.org/{'a' * 500})"
    assert readability.long_lines(f"{address}\n```\n{'b' * 500}\n```\n", "page.md") == []
    assert readability.long_lines(f"| {'c' * 300} | {'d' * 300} |\n", "page.md") == []
    (problem,) = readability.long_lines(f"ok\n{'b ' * 250}\n", "page.md")
    assert problem.startswith("page.md:2: a line of 500 characters")


def test_listed_terms_are_found_over_line_ends_and_old_keys_in_code_too() -> None:
    terms = {"prose": {"stands twice": "duplicate"}, "everywhere": {"token_budget": "max_tokens"}}
    text = "A name Stands\ntwice. `stands twice` is code.\n```\nstands twice, token_budget=1\n```\nmax_token_budgets\n"
    assert readability.banned_phrases(text, "page.md", terms) == [
        'page.md:1: "stands twice": duplicate',
        'page.md:4: "token_budget": max_tokens',
    ]


def test_the_list_of_terms_says_what_to_write_and_has_no_other_tables(tmp_path: Path) -> None:
    terms = readability.read_terms()
    assert set(terms) == {"prose", "everywhere"} and all(all(table.values()) for table in terms.values())
    assert terms["everywhere"]["token_budget"] == "max_tokens_per_micro_batch" and "is none of" in terms["prose"]
    (tmp_path / "terms.toml").write_text('[words]\na = "b"\n')
    with pytest.raises(ValueError, match="unknown tables: words"):
        readability.read_terms(tmp_path / "terms.toml")


def test_the_exit_code_and_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.md", tmp_path / "bad.md"
    good.write_text("Short sentences are read. " * 9)
    bad.write_text("word " * 30 + "end.\n\nThe name stands twice.\n")
    assert readability.main([str(good)]) == 0
    assert readability.main([str(good), str(bad), "--worst", "1"]) == 1
    said = capsys.readouterr()
    assert f"{bad}:1: 31 words, 0 , ; :" in said.out and "all documents" not in said.err
    assert said.err.splitlines()[-1] == f'error: {bad}:3: "stands twice": write "duplicate"'


def test_an_average_above_the_limit_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("word " * 21 + "end. ")
    document = readability.measure(tmp_path / "page.md", {})
    problems = readability.problems_of([document])
    assert len(problems) == 2 and "22.0 words a sentence on average; the limit is 20" in problems[0]


def test_without_files_the_documents_of_the_project_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs/inner").mkdir(parents=True)
    names = ["README.md", "CONTRIBUTING.md", "docs/inner/page.md"]
    for name in [*names, "other.md"]:
        (tmp_path / name).write_text("A short sentence.\n")
    assert readability.main([]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:5]] == [*names, "all"]
