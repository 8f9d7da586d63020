"""Rows of every dataset in conf/dataset: made up, with the fields and the kinds of values of the published ones."""

from typing import Any

import numpy as np

from bench.model.images import drawn

Row = dict[str, Any]


def _choices(*texts: str, labels: str = "ABCDE") -> dict[str, list[str]]:
    return {"text": list(texts), "label": list(labels[: len(texts)])}


def _pairs(first: str, second: str, labels: list[int] | list[float]) -> list[Row]:
    """Sentence pairs under the names of two fields, one for each label."""
    texts = [
        ("The river rose by a metre overnight.", "Overnight the river became a metre deeper."),
        ("Two men are repairing a roof.", "A woman is singing."),
        ("The museum opens at nine .", 'It said : " the museum opens at nine . "'),
    ]
    return [
        {first: one, second: other, "label": label, "idx": index}
        for index, ((one, other), label) in enumerate(zip(texts, labels, strict=False))
    ]


SENTENCES: list[Row] = [
    {"sentence": "The book that she wrote was read by everyone.", "label": 1, "idx": 0},
    {"sentence": "Everyone was wrote by the book read. ", "label": 0, "idx": 1},
]
WORD_PROBLEMS: list[Row] = [
    {"question": "Mia has 3 pens and buys 4. How many now?", "answer": "3 + 4 = <<3+4=7>>7 pens.\n#### 7"},
    {"question": "A farm has 30 rows of 40 trees. How many?", "answer": "30 * 40 = <<30*40=1200>>1200\n#### 1,200"},
    {"question": "It was 3 degrees and fell by 8. What now?", "answer": "3 - 8 = <<3-8=-5>>-5\n#### -5"},
]
PREMISES = _pairs("premise", "hypothesis", [0, 2, 1])
SCIENCE: list[Row] = [
    {
        "id": "Mercury_1",
        "question": "Which of these is a liquid at room temperature?",
        "choices": _choices("iron", "water", "oxygen", "salt"),
        "answerKey": "B",
    },
    {
        "id": "NYSEDREGENTS_2",
        "question": "What does a plant take from the air?",
        "choices": _choices("nitrogen", "helium", "carbon dioxide", labels="1234"),
        "answerKey": "3",
    },
    {
        "id": "MCAS_3",
        "question": "Which planet is nearest to the Sun?",
        "choices": _choices("Venus", "Earth", "Mars", "Jupiter", "Mercury"),
        "answerKey": "E",
    },
]


def _instruction(instruction: str, answer: str) -> Row:
    return {"instruction": instruction, "input": "", "output": f"the correct answer is {answer}", "answer": answer}


# Grey squares, each of another brightness; a vision model's definition is asked for nothing but its text.
IMAGES: list[Row] = [
    {"image": drawn(np.full((8, 6, 3), 60 * label, dtype=np.uint8)), "label": label} for label in (1, 0, 3)
]


ROWS: dict[str, list[Row]] = {
    "digits": IMAGES,
    "glyphs_tiny": IMAGES,
    "cifar10": IMAGES,
    "cifar100": IMAGES,
    "syllogism": [{"question": "All wugs are daxes. Are all daxes wugs? (Answer Yes or No)", "answer": "No"}],
    "family_relationships": [{"question": "Ann is married to Bob. What is Bob to Ann?", "answer": "husband"}],
    "letter_counting": [{"question": 'How many times does the letter "a" appear in the text: "a wug"?', "answer": "1"}],
    "gsm_symbolic": WORD_PROBLEMS,
    "gsm_symbolic_templates": WORD_PROBLEMS,
    "gsm_tiny": [{"question": "Tom has 2 pears and finds 3. How many pears now?", "answer": "2 + 3 = 5\n#### 5"}],
    "commonsense_tiny": [{"question": "What is the wug?", "choices": ["bird", "fish", "bug", "cat"], "label": 2}],
    "acceptability_tiny": [{"sentence": "the dog see a cat.", "label": 0}, {"sentence": "a cat sleeps.", "label": 1}],
    "paraphrase_tiny": [
        {"sentence1": "Ann gave Tom a pear.", "sentence2": "Tom got a pear from Ann.", "label": 1},
        {"sentence1": "Ann gave Tom a pear.", "sentence2": "Ann got a pear from Tom.", "label": 0},
    ],
    "entailment_tiny": [{"sentence1": "The dog is bigger.", "sentence2": "The dog is smaller.", "label": 0}],
    "summary_tiny": [
        {
            "document": "Ann gives 3 keys to Tom. The wugs eat moss. Bea has 4 pears. She finds 2 more.",
            "summary": "Bea ends with 6 pears, and Tom gets 3 keys from Ann.",
        }
    ],
    "xsum": [
        {
            "document": "The bridge closed in May.\nEngineers found cracks in two piers.\nIt may open by autumn.",
            "summary": "A bridge is closed for repairs until autumn.",
            "id": "1",
        },
        {
            "document": "Prices rose by 2%.\nFuel was dearer than a year before.",
            "summary": "Fuel pushed prices up by 2%.",
            "id": "2",
        },
        {"document": "", "summary": "A row that has no document.", "id": "3"},
    ],
    "cnn_dailymail": [
        {
            "article": "(CNN) -- Two hikers were found on Friday. They had no map. A helicopter took them home.",
            "highlights": "Two hikers are found on Friday .\nA helicopter took them home .",
            "id": "a1",
        }
    ],
    "gsm8k": WORD_PROBLEMS,
    "hendrycks_math": [
        {
            "problem": "Solve $2x = 1$ for $x$.",
            "level": "Level 1",
            "type": "Algebra",
            "solution": "Dividing both sides by $2$ gives $x = \\boxed{\\frac{1}{2}}$.",
        },
        {
            "problem": "How many primes are below $10$?",
            "level": "Level 2",
            "type": "Number Theory",
            "solution": "[asy]draw((0,0)--(1,0));[/asy] They are $2$, $3$, $5$ and $7$, which makes $\\boxed{4}$.",
        },
    ],
    "metamath": [
        {
            "type": "GSM_Rephrased",
            "query": WORD_PROBLEMS[0]["question"],
            "original_question": WORD_PROBLEMS[0]["question"],
            "response": "Mia has 3 + 4 = 7 pens.\n#### 7\nThe answer is: 7",
        },
        {
            "type": "MATH_AnsAug",
            "query": "Solve $2x = 1$ for $x$.",
            "original_question": "Solve $2x = 1$ for $x$.",
            "response": "We get $x = \\boxed{\\frac{1}{2}}$.\nThe answer is: \\frac{1}{2}",
        },
    ],
    "commonsense_170k": [
        _instruction(
            "Please answer the following question with true or false, question: is salt soluble in water?\n\n"
            "Answer format: true/false",
            "true",
        ),
        _instruction(
            "Please choose the correct solution to the question: dry a wet shoe\n\nSolution1: fill it with paper\n\n"
            "Solution2: fill it with milk\n\nAnswer format: solution1/solution2",
            "solution1",
        ),
    ],
    "boolq": [
        {
            "question": "is salt soluble in water",
            "passage": "Salt -- Table salt dissolves readily in water and is found in the sea.",
            "idx": 0,
            "label": 1,
        },
        {"question": "can whales breathe in water", "passage": "Whale -- It has lungs.", "idx": 1, "label": 0},
    ],
    "piqa": [
        {"goal": "dry a wet shoe", "sol1": "fill it with paper", "sol2": "fill it with milk", "label": 0},
        {"goal": "When soup is too salty,", "sol1": "add more salt.", "sol2": "add a potato.", "label": 1},
    ],
    "social_iqa": [
        {
            "context": "Robin lent Kim an umbrella.",
            "question": "How would Kim feel as a result?",
            "answerA": "angry",
            "answerB": "grateful",
            "answerC": "hungry",
            "label": "2",
        }
    ],
    "hellaswag": [
        {
            "ind": 7,
            "activity_label": "Baking bread",
            "ctx_a": "A woman kneads dough.",
            "ctx_b": "she",
            "ctx": "A woman kneads dough. she",
            "endings": ["sails away.", "puts it into the oven.", "reads the dough a letter.", "sells her car."],
            "source_id": "activitynet~v_0",
            "split": "val",
            "split_type": "indomain",
            "label": "1",
        },
        {
            "ind": 8,
            "activity_label": "Home and Garden",
            "ctx_a": "[header] How to paint a wall [title] Clean the wall.",
            "ctx_b": "",
            "ctx": "[header] How to paint a wall [title] Clean the wall.",
            "endings": ["[step] Eat it.", "[step] Paint the sky.", "[step] Dust it first.", "[step] Sell it."],
            "source_id": "wikihow~0",
            "split": "val",
            "split_type": "zeroshot",
            "label": "2",
        },
    ],
    "winogrande": [
        {
            "sentence": "The cup did not fit into the bag because the _ was too small.",
            "option1": "cup",
            "option2": "bag",
            "answer": "2",
        },
        {"sentence": "Ann asked Beth for help, so _ said yes.", "option1": "Beth", "option2": "Ann", "answer": "1"},
    ],
    "arc_easy": SCIENCE,
    "arc_challenge": SCIENCE,
    "openbookqa": [
        {
            "id": "7-1",
            "question_stem": "A magnet attracts",
            "choices": _choices("a wooden spoon", "a paper cup", "an iron nail", "a glass jar"),
            "answerKey": "C",
        }
    ],
    "cola": SENTENCES,
    "sst2": SENTENCES,
    "mrpc": _pairs("sentence1", "sentence2", [1, 0, 1]),
    "stsb": _pairs("sentence1", "sentence2", [4.6, 0.0, 3.785]),
    "qqp": _pairs("question1", "question2", [1, 0, 1]),
    "mnli": PREMISES,
    "mnli_mismatch": PREMISES,
    "qnli": _pairs("question", "sentence", [0, 1, 0]),
    "rte": _pairs("sentence1", "sentence2", [0, 1, 0]),
    "wnli": _pairs("sentence1", "sentence2", [1, 0, 1]),
    "alpaca": [
        {"instruction": "Name a colour.", "input": "", "output": "Blue.", "text": "..."},
        {"instruction": "Sort the numbers.", "input": "3, 1, 2", "output": "[1, 2, 3]", "text": "..."},
        {"instruction": "Draw a cat.", "input": "", "output": "", "text": "..."},
    ],
    "code_feedback": [
        {
            "query": "Write a function that doubles a number.",
            "answer": "```python\ndef double(n):\n    return 2 * n\n```",
            "resource": "evol",
            "lang": "python",
        }
    ],
    "wikitext2": [{"page": " = Wug = \n\n The wug is a small @-@ footed bird . It lives in 1 @,@ 200 trees . \n"}],
    "mmlu": [
        {
            "question": f"What is {n} + 1?",
            "subject": "elementary_mathematics",
            "choices": [str(n), str(n + 1), str(n + 2), "0"],
            "answer": 1,
        }
        for n in range(1, 8)
    ],
    "humaneval": [
        {
            "task_id": "HumanEval/0",
            "prompt": 'def double(n: int) -> int:\n    """Twice a number."""\n',
            "canonical_solution": "    return 2 * n\n",
            "test": "def check(candidate):\n    assert candidate(2) == 4\n",
            "entry_point": "double",
        }
    ],
}
