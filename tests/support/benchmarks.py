"""The model card's benchmarks in miniature: made-up items in their datasets' real format.

Every dataset has the id, configs, splits and columns that it has on the Hub, and the kind of file,
so that lm-eval's own tasks read it. The items are written here: none is of a benchmark.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

Row = dict[str, Any]
Splits = dict[str, list[Row]]

FACTS: Sequence[tuple[str, str, tuple[str, str, str]]] = (
    ("Which animal barks", "the dog", ("the trout", "the moth", "the oak")),
    ("What do bees make", "honey", ("gravel", "wool", "steam")),
    ("Where does bread rise", "in a warm bowl", ("under the sea", "on a wire", "in a bell")),
    ("What melts in the sun", "ice", ("granite", "a shadow", "the north")),
)
"""Questions of one line with the right answer and three wrong ones."""


def facts(count: int) -> list[tuple[str, str, tuple[str, str, str]]]:
    """As many questions: those above, then sums."""
    sums = [
        (f"What is {n} plus {n + 2}", str(2 * n + 2), (str(2 * n), str(3 * n + 9), str(n)))
        for n in range(1, count)
    ]
    return [*FACTS, *sums][:count]


def choices(number: int, right: str, wrong: Iterable[str]) -> tuple[list[str], int]:
    """The answers in an order that depends on `number`, and the place of the right one."""
    listed = list(wrong)
    place = number % (len(listed) + 1)
    listed.insert(place, right)
    return listed, place


def write_benchmarks(root: Path, *, languages: Sequence[str] | None = None) -> Path:
    """All datasets of the card, laid out by id, as `--datasets` takes them.

    Args:
        root: A folder to write them into.
        languages: Of the datasets with a config for each; None: all of them.
    """
    write(root, "Rowan/hellaswag", {"default": train_and("validation", hellaswag, 12)})
    write(root, "aps/super_glue", {"boolq": train_and("validation", boolq)})
    write(root, "baber/piqa", {"default": train_and("validation", piqa)})
    write(root, "lighteval/siqa", {"default": train_and("validation", siqa)})
    write(root, "mandarjoshi/trivia_qa", {"rc.nocontext": train_and("validation", triviaqa, 8)})
    write(
        root,
        "google-research-datasets/nq_open",
        {"default": train_and("validation", nq_open, 8)},
    )
    arc_splits = {"train": rows(arc, 27), "validation": rows(arc, 3), "test": rows(arc, 3)}
    write(root, "allenai/ai2_arc", {"ARC-Challenge": arc_splits, "ARC-Easy": arc_splits})
    write(root, "allenai/winogrande", {"winogrande_xl": train_and("validation", winogrande, 8)})
    write(root, "SaylorTwift/bbh", {name: {"test": rows(bbh, 3)} for name in BBH})
    write(root, "EleutherAI/drop", {"default": train_and("validation", drop)})
    subjects = {"test": rows(mmlu, 2), "validation": rows(mmlu, 2), "dev": rows(mmlu, 5)}
    write(root, "cais/mmlu", dict.fromkeys(SUBJECTS, subjects))
    write_gpqa(root)
    write_lines(root / "math-ai/aime25" / "test.jsonl", rows(aime, 3))
    write(root, "google-research-datasets/mbpp", {"full": {"test": rows(mbpp, 3)}})
    write(root, "openai/openai_humaneval", {"openai_humaneval": {"test": rows(humaneval, 3)}})
    by_category = [mmlu_pro(n, name) for name in CATEGORIES for n in range(5)]
    write(root, "TIGER-Lab/MMLU-Pro", {"default": {"test": by_category, "validation": by_category}})

    def spoken(known: Iterable[str]) -> list[str]:
        return [name for name in known if languages is None or name.lower() in languages]

    mgsm_splits = {"train": rows(mgsm_solved, 8), "test": rows(mgsm, 3)}
    write(root, "juletxara/mgsm", dict.fromkeys(spoken(MGSM), mgsm_splits))
    exams = [include(n, domain) for domain in DOMAINS for n in range(2)]
    write(root, "CohereForAI/include-base-44", {n: {"test": exams} for n in spoken(INCLUDE)})
    options = [mmlu_prox(n, name) for name in CATEGORIES for n in range(5)]
    prox = {"test": options, "validation": options}
    write(root, "li-lab/MMLU-ProX", dict.fromkeys(spoken(MMLU_PROX), prox))
    write_mmmlu(root, spoken(MMMLU))
    whole = [global_mmlu(n, subject, "STEM") for subject in SUBJECTS for n in range(2)]
    write(
        root,
        "CohereForAI/Global-MMLU",
        {name: {"test": whole, "dev": whole} for name in spoken(GLOBAL_MMLU)},
    )
    lite = [global_mmlu(n, "anatomy", kind) for kind in LITE_CATEGORIES for n in range(2)]
    write(
        root,
        "CohereLabs/Global-MMLU-Lite",
        {name: {"test": lite, "dev": lite} for name in spoken(GLOBAL_MMLU_LITE)},
    )
    return root


# --- files ---


def write(root: Path, dataset: str, configs: dict[str, Splits]) -> None:
    """A dataset repository of parquet files: `CONFIG/SPLIT-00000-of-00001.parquet`."""
    folder = root / dataset
    head = ["---", "configs:"]
    for config, splits in configs.items():
        head += [f"- config_name: {config}", "  data_files:"]
        for split, items in splits.items():
            place = f"{config}/{split}-00000-of-00001.parquet"
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(items).to_parquet(folder / place, index=False)
            head.append(f"  - {{split: {split}, path: '{config}/{split}-*'}}")
    (folder / "README.md").write_text("\n".join([*head, "---", ""]))


def write_lines(path: Path, items: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(item)}\n" for item in items))


def write_gpqa(root: Path) -> None:
    """One CSV file for each subset; its only split is `train`."""
    folder = root / "Idavidrein/gpqa"
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows(gpqa, 3)).to_csv(folder / "gpqa_diamond.csv", index=False)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: gpqa_diamond\n  data_files: gpqa_diamond.csv\n---\n"
    )


def write_mmmlu(root: Path, locales: Iterable[str]) -> None:
    """One CSV file for each locale, with a column without a name in front."""
    folder = root / "openai/MMMLU"
    (folder / "test").mkdir(parents=True, exist_ok=True)
    head = ["---", "configs:"]
    for locale in locales:
        file = f"test/mmlu_{locale.replace('_', '-')}.csv"
        pd.DataFrame([mmmlu(n, name) for name in SUBJECTS for n in range(2)]).to_csv(folder / file)
        head += [f"- config_name: {locale}", f"  data_files: [{{split: test, path: {file}}}]"]
    (folder / "README.md").write_text("\n".join([*head, "---", ""]))


def rows(make: Any, count: int) -> list[Row]:
    return [make(number) for number in range(count)]


def train_and(split: str, make: Any, train: int = 4) -> Splits:
    return {"train": rows(make, train), split: rows(make, 3)}


# --- one item of each benchmark ---


def fact(number: int) -> tuple[str, str, tuple[str, str, str]]:
    return facts(number + 1)[number]


def hellaswag(n: int) -> Row:
    question, right, wrong = fact(n)
    endings, place = choices(
        n, f"{right}, as all know.", (f"{each} [step] then." for each in wrong)
    )
    return {
        "ind": n,
        "activity_label": "Asking around",
        "ctx_a": f"A child asks: {question.lower()}?",
        "ctx_b": "the old man",
        "ctx": f"A child asks: {question.lower()}? the old man",
        "endings": endings,
        "source_id": f"made~v_{n}",
        "split": "train",
        "split_type": "indomain",
        "label": str(place),
    }


def boolq(n: int) -> Row:
    question, right, wrong = fact(n)
    return {
        "question": f"is the answer {wrong[0] if n % 2 else right}",
        "passage": f"{question}? It is {right}.",
        "idx": n,
        "label": (n + 1) % 2,
    }


def piqa(n: int) -> Row:
    question, right, wrong = fact(n)
    both, place = choices(n, f"Say {right}.", [f"Say {wrong[0]}."])
    return {"goal": question, "sol1": both[0], "sol2": both[1], "label": place}


def siqa(n: int) -> Row:
    question, right, wrong = fact(n)
    three, place = choices(n, right, wrong[:2])
    return {
        "context": f"Robin wondered aloud: {question.lower()}?",
        "question": "What will Kim say?",
        **dict(zip(("answerA", "answerB", "answerC"), three, strict=True)),
        "label": str(place + 1),
    }


def triviaqa(n: int) -> Row:
    question, right, _wrong = fact(n)
    return {
        "question": question,
        "question_id": f"made_{n}",
        "question_source": "made up",
        "answer": {
            "aliases": [right, right.title()],
            "normalized_aliases": [right],
            "matched_wiki_entity_name": "",
            "normalized_matched_wiki_entity_name": "",
            "normalized_value": right,
            "type": "FreeForm",
            "value": right,
        },
    }


def nq_open(n: int) -> Row:
    question, right, _ = fact(n)
    return {"question": question.lower(), "answer": [right, right.upper()]}


def arc(n: int) -> Row:
    question, right, wrong = fact(n)
    four, place = choices(n, right, wrong)
    return {
        "id": f"MADE_{n}",
        "question": f"{question}?",
        "choices": {"text": four, "label": list("ABCD")},
        "answerKey": "ABCD"[place],
    }


def winogrande(n: int) -> Row:
    _, right, wrong = fact(n)
    both, place = choices(n, right, [wrong[0]])
    return {
        "sentence": f"They wanted {right} and not {wrong[0]}, so _ was what they took.",
        "option1": both[0],
        "option2": both[1],
        "answer": str(place + 1),
    }


def bbh(n: int) -> Row:
    question, right, wrong = fact(n)
    four, place = choices(n, right, wrong)
    options = "\n".join(f"({letter}) {text}" for letter, text in zip("ABCD", four, strict=True))
    return {"input": f"{question}?\nOptions:\n{options}", "target": f"({'ABCD'[place]})"}


def drop(n: int) -> Row:
    question, right, _ = fact(n)
    date = {"day": "", "month": "", "year": ""}
    number = str(n) if n % 2 else ""
    spans = [] if number else [right]
    return {
        "section_id": f"made_{n}",
        "passage": f"{n} people were asked: {question.lower()}? All said {right}.",
        "question": "How many were asked?" if number else "What did they say?",
        "query_id": f"query_{n}",
        "answer": {"number": number, "date": date, "spans": spans, "worker_id": "", "hit_id": ""},
        "validated_answers": {
            "number": [number, "9"],
            "date": [date, date],
            "spans": [spans, []],
            "worker_id": ["", ""],
            "hit_id": ["", ""],
        },
    }


def mmlu(n: int) -> Row:
    question, right, wrong = fact(n)
    four, place = choices(n, right, wrong)
    return {"question": f"{question}?", "subject": "made_up", "choices": four, "answer": place}


def gpqa(n: int) -> Row:
    question, right, wrong = fact(n)
    return {
        "Question": f"{question}?",
        "Correct Answer": right,
        **{f"Incorrect Answer {place}": text for place, text in enumerate(wrong, 1)},
        "Subdomain": "Made up",
    }


def aime(n: int) -> Row:
    return {"problem": f"Find ${n} + {n + 7}$.", "answer": str(2 * n + 7), "id": str(n)}


def mbpp(n: int) -> Row:
    return {
        "task_id": 11 + n,
        "text": f"Write a function to add {n} to a number.",
        "code": f"def add_{n}(a):\r\n  return a + {n}",
        "test_list": [f"assert add_{n}({a}) == {a + n}" for a in (1, 5, 9)],
        "test_setup_code": "",
        "challenge_test_list": [],
    }


def humaneval(n: int) -> Row:
    return {
        "task_id": f"Made/{n}",
        "prompt": f'def times_{n}(a: int) -> int:\n    """Multiply a by {n}."""\n',
        "canonical_solution": f"    return a * {n}\n",
        "test": f"def check(candidate):\n    assert candidate(3) == {3 * n}\n",
        "entry_point": f"times_{n}",
    }


def mmlu_pro(n: int, category: str) -> Row:
    question, right, wrong = fact(n)
    listed, place = choices(n, right, (*wrong, "none of these"))
    letter = "ABCDE"[place]
    return {
        "question_id": n,
        "question": f"In {category}: {question.lower()}?",
        "options": listed,
        "answer": letter,
        "answer_index": place,
        "cot_content": f"A: Let's think step by step. It is {right}. The answer is ({letter}).",
        "category": category,
        "src": "made up",
    }


def mmlu_prox(n: int, category: str) -> Row:
    row = mmlu_pro(n, category)
    listed = row.pop("options")
    filled = [*listed, *[None] * (10 - len(listed))]
    return {**row, **{f"option_{place}": text for place, text in enumerate(filled)}}


def mgsm(n: int) -> Row:
    """In the test split there is no worked answer."""
    return {
        "question": f"Anna has {n} apples and gets {n + 3} more. How many does she have?",
        "answer": None,
        "answer_number": 2 * n + 3,
        "equation_solution": None,
    }


def mgsm_solved(n: int) -> Row:
    row = mgsm(n)
    worked = f"Step-by-Step Answer: {n} + {n + 3} = {2 * n + 3}. The answer is {2 * n + 3}."
    return {**row, "question": f"Question: {row['question']}", "answer": worked}


def include(n: int, domain: str) -> Row:
    question, right, wrong = fact(n)
    four, place = choices(n, right, wrong)
    return {
        "language": "made up",
        "domain": domain,
        "subject": "made up",
        "question": f"{question}?",
        **dict(zip(("option_a", "option_b", "option_c", "option_d"), four, strict=True)),
        "answer": place,
    }


def mmmlu(n: int, subject: str) -> Row:
    question, right, wrong = fact(n)
    four, place = choices(n, right, wrong)
    letters = dict(zip("ABCD", four, strict=True))
    return {"Question": f"{question}?", **letters, "Answer": "ABCD"[place], "Subject": subject}


def global_mmlu(n: int, subject: str, category: str) -> Row:
    question, right, wrong = fact(n)
    four, place = choices(n, right, wrong)
    return {
        "sample_id": f"{subject}/test/{n}",
        "subject": subject,
        "subject_category": category,
        "question": f"{question}?",
        **dict(zip(("option_a", "option_b", "option_c", "option_d"), four, strict=True)),
        "answer": "ABCD"[place],
    }


# --- configs, subjects and categories of the datasets ---


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


BBH = _names(
    "boolean_expressions causal_judgement date_understanding disambiguation_qa dyck_languages "
    "formal_fallacies geometric_shapes hyperbaton logical_deduction_five_objects "
    "logical_deduction_seven_objects logical_deduction_three_objects movie_recommendation "
    "multistep_arithmetic_two navigate object_counting penguins_in_a_table "
    "reasoning_about_colored_objects ruin_names salient_translation_error_detection snarks "
    "sports_understanding temporal_sequences tracking_shuffled_objects_five_objects "
    "tracking_shuffled_objects_seven_objects tracking_shuffled_objects_three_objects web_of_lies "
    "word_sorting"
)
CATEGORIES = (
    *_names("biology business chemistry economics engineering health history law math other"),
    *("computer science", "philosophy", "physics", "psychology"),
)
DOMAINS = (
    *("Applied Science", "Arts & Humanities", "Business & Commerce", "Driving License"),
    *("General knowledge", "Health oriented education", "Marine License", "Medical License"),
    *("Professional certification", "STEM", "Social Science"),
)
LITE_CATEGORIES = ("Business", "Humanities", "Medical", "Other", "STEM", "Social Sciences")
MGSM = _names("bn de en es fr ja ru sw te th zh")
MMLU_PROX = _names(
    "af ar bn cs de en es fr hi hu id it ja ko mr ne pt ru sr sw te th uk ur vi wo yo zh zu"
)
MMMLU = _names(
    "AR_XY BN_BD DE_DE ES_LA FR_FR HI_IN ID_ID IT_IT JA_JP KO_KR PT_BR SW_KE YO_NG ZH_CN"
)
GLOBAL_MMLU = _names(
    "am ar bn cs de el en es fa fil fr ha he hi id ig it ja ko ky lt mg ms ne nl ny pl pt ro ru si "
    "sn so sr sv sw te tr uk vi yo zh"
)
GLOBAL_MMLU_LITE = _names("ar bn de en es fr hi id it ja ko pt sw yo zh")
INCLUDE = (
    *_names(
        "Albanian Arabic Armenian Azerbaijani Basque Belarusian Bengali Bulgarian Chinese Croatian "
        "Dutch Estonian Finnish French Georgian German Greek Hebrew Hindi Hungarian Indonesian "
        "Italian Japanese Kazakh Korean Lithuanian Malay Malayalam Nepali Persian Polish "
        "Portuguese Russian Serbian Spanish Tagalog Tamil Telugu Turkish Ukrainian Urdu Uzbek "
        "Vietnamese"
    ),
    "North Macedonian",
)
SUBJECTS = _names(
    "abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology "
    "college_chemistry college_computer_science college_mathematics college_medicine "
    "college_physics computer_security conceptual_physics econometrics electrical_engineering "
    "elementary_mathematics formal_logic global_facts high_school_biology high_school_chemistry "
    "high_school_computer_science high_school_european_history high_school_geography "
    "high_school_government_and_politics high_school_macroeconomics high_school_mathematics "
    "high_school_microeconomics high_school_physics high_school_psychology high_school_statistics "
    "high_school_us_history high_school_world_history human_aging human_sexuality "
    "international_law jurisprudence logical_fallacies machine_learning management marketing "
    "medical_genetics miscellaneous moral_disputes moral_scenarios nutrition philosophy prehistory "
    "professional_accounting professional_law professional_medicine professional_psychology "
    "public_relations security_studies sociology us_foreign_policy virology world_religions"
)
