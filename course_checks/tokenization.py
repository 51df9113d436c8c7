"""Checks for the exercises of chapter 2, Tokenization."""

from collections.abc import Callable

from course_checks import Wrong, check
from course_utils.bpe import BPETokenizer, merge_pair

Words = dict[tuple[str, ...], int]


@check
def check_most_frequent_pair(most_frequent_pair: Callable) -> str:
    """``most_frequent_pair({tokens: count}) -> pair``, ties to the greater pair."""

    def ask(words: Words) -> object:
        answer = most_frequent_pair(dict(words))
        if isinstance(answer, str):
            raise Wrong(
                f"You returned the text {answer!r}; return the two tokens as a pair, "
                "such as ('e', 'a')."
            )
        if answer is None:
            raise Wrong("Your function returned None; is the `return` missing?")
        if isinstance(answer, tuple | list) and any(isinstance(part, int) for part in answer):
            raise Wrong("You returned the pair together with its count; return the pair alone.")
        return tuple(answer) if isinstance(answer, list) else answer

    if ask({("x", "y"): 1}) != ("x", "y"):
        raise Wrong("In a corpus of one word, x y, the only pair is ('x', 'y').")
    weighted: Words = {("a", "b"): 5, ("c", "d"): 2, ("c", "d", "e"): 2}
    if (answer := ask(weighted)) != ("a", "b"):
        reason = f"your answer was {answer}"
        if answer == ("c", "d"):
            reason = "you count each distinct word once"
        raise Wrong(
            f"With {weighted} the answer is ('a', 'b'), which occurs 5 times; {reason}. "
            "A pair in a word counts as often as the word occurs."
        )
    repeated: Words = {("n", "a", "n", "a"): 2, ("g", "o"): 3}
    if ask(repeated) != ("n", "a"):
        raise Wrong(
            "In the word n a n a the pair ('n', 'a') occurs twice, and both occurrences count."
        )
    # Written one after the other, b a b a … b c a b c a, the pair ('a', 'b') would win.
    crossing: Words = {("b", "a"): 4, ("b", "c", "a"): 3}
    if ask(crossing) != ("b", "a"):
        raise Wrong(
            "A pair lies inside one word. Do not pair the last token of a word with the next."
        )
    tied: Words = {("a", "b"): 2, ("y", "z"): 2, ("c", "d"): 2}
    if (answer := ask(tied)) != ("y", "z"):
        raise Wrong(
            f"Three pairs occur twice in {tied}, and you chose {answer}. The tie goes to the "
            "greater pair, as Python compares tuples: ('y', 'z')."
        )
    long: Words = {("th", "e"): 4, ("th", "e", "m"): 3, ("t", "h"): 6}
    if (answer := ask(long)) != ("th", "e"):
        raise Wrong(
            f"Tokens may be longer than a letter: in {long} ('th', 'e') wins, not {answer}."
        )
    return "The counts change after each merge, so this question is asked again every time."


@check
def check_merge_pair(merge: Callable) -> str:
    """``merge(tokens, pair) -> tokens`` with each occurrence of the pair joined."""

    def ask(tokens: str, left: str, right: str) -> list[str]:
        given = tokens.split()
        answer = merge(given, (left, right))
        if given != tokens.split():
            raise Wrong(
                "Your function changed the list it was given. Build a new list, because the "
                "caller still needs the old one."
            )
        if answer is None:
            raise Wrong("Your function returned None; is the `return` missing?")
        if isinstance(answer, str):
            raise Wrong(f"You returned the text {answer!r}; return a list of tokens.")
        return list(answer)

    if ask("x y", "a", "b") != ["x", "y"]:
        raise Wrong(
            "Where the pair does not occur, the tokens stay as they are. Merging ('a', 'b') in "
            f"x y gave {ask('x y', 'a', 'b')}. Is the last token lost?"
        )
    if (answer := ask("x a b y", "a", "b")) != ["x", "ab", "y"]:
        reason = ""
        if answer == ["x", "ab", "b", "y"]:
            reason = " After a merge skip two tokens, not one."
        elif answer == ["x", "ab"]:
            reason = " The last token is lost: the loop ends one too early."
        elif answer == ["x", "a", "b", "y"]:
            reason = (
                " Nothing was joined. Do you compare a slice of the list with the pair? A list is "
                "never equal to a tuple: make both the same with tuple(…)."
            )
        raise Wrong(f"Merging ('a', 'b') in x a b y gives x ab y, not {' '.join(answer)}.{reason}")
    if (answer := ask("a b c a b", "a", "b")) != ["ab", "c", "ab"]:
        reason = " Join every occurrence, not only the first." if answer[-1:] == ["b"] else ""
        raise Wrong(f"Merging ('a', 'b') in a b c a b gives ab c ab, not {answer}.{reason}")
    if (answer := ask("ab c", "b", "c")) != ["ab", "c"]:
        raise Wrong(
            f"In the tokens ab c there is no token b, so ('b', 'c') does not occur; you gave "
            f"{answer}. Compare whole tokens, not the letters of the joined text."
        )
    if (answer := ask("a a a", "a", "a")) != ["aa", "a"]:
        reason = ""
        if answer == ["a", "aa"]:
            reason = " Go from left to right."
        elif answer == ["aa", "aa"]:
            reason = " A token can be used in one merge only: after a merge skip two tokens."
        raise Wrong(f"Merging ('a', 'a') in a a a gives aa a, not {' '.join(answer)}.{reason}")
    if ask("", "a", "b") != []:
        raise Wrong("An empty list stays empty.")
    tokens = list("shesellsseashells")
    for pair in [("s", "e"), ("l", "l"), ("s", "h"), ("s", "s")]:
        if (answer := ask(" ".join(tokens), *pair)) != merge_pair(tokens, pair):
            raise Wrong(f"Merging {pair} in {' '.join(tokens)} gave {' '.join(answer)}.")
    return "Merging never changes the text: joined together, the tokens spell what they did before."


@check
def check_decode(decode: Callable) -> str:
    """``decode(ids, vocab) -> text`` where ``vocab`` is ``{id: bytes}``."""
    vocab = BPETokenizer([(b"h", b"i"), (b" ", b"t")]).vocab

    def ask(text: str, ids: list[int]) -> str:
        try:
            answer = decode(list(ids), dict(vocab))
        except UnicodeDecodeError as error:
            raise Wrong(
                f"The bytes {vocab_bytes(ids)!r} are not valid UTF-8 and your function stopped "
                f"({error.reason}). A model can produce any ids, so decode with "
                "errors='replace'."
            ) from None
        if isinstance(answer, bytes):
            raise Wrong("You returned bytes; decode them into text.")
        if not isinstance(answer, str):
            raise Wrong(f"You returned a {type(answer).__name__}; return text, a str.")
        return answer

    def vocab_bytes(ids: list[int]) -> bytes:
        return b"".join(vocab[id_] for id_ in ids)

    if (answer := ask("hi t", [256, 257])) != "hi t":
        if answer == "hi  t":
            raise Wrong(
                "The space is part of the token b' t'; join the tokens with nothing between."
            )
        raise Wrong(
            f"The ids [256, 257] are b'hi' and b' t', so the text is 'hi t', not {answer!r}."
        )
    for text in ("é", "🙂", "हिन्दी"):
        ids = list(text.encode())
        answer = ask(text, ids)
        if answer == "".join(bytes([byte]).decode("utf-8", "replace") for byte in ids):
            raise Wrong(
                f"{text!r} became {answer!r}: you decode each token by itself, and a piece of a "
                "character is not a character. Join all the bytes first."
            )
        if answer == text.encode().decode("latin-1"):
            raise Wrong(f"{text!r} became {answer!r}: that is Latin-1 (or chr). Decode as UTF-8.")
        if answer == "":
            raise Wrong(f"{text!r} vanished: do not ignore bytes, join them before you decode.")
        if answer != text:
            raise Wrong(f"The bytes of {text!r} gave {answer!r}.")
    if (answer := ask("a�b", [97, 0xFF, 98])) != "a\ufffdb":
        raise Wrong(
            f"The bytes b'a\\xffb' are not valid UTF-8. Yours gave {answer!r}; the byte 0xFF must "
            "become � so that the reader sees that something was there (errors='replace')."
        )
    if ask("", []) != "":
        raise Wrong("No ids give the empty text.")
    return "Joining first and decoding once is why any text survives, whatever its alphabet."


_PIECES = {
    *("un", "able", "##able", "aff", "##aff", "##afford", "afford", "token", "##iz", "##ization"),
    *("##ation", "sea", "seal", "##s", "##l", "a", "##f", "##n", "u"),
}


def _wordpiece(word: str, vocab: set[str], *, shortest: bool = False) -> list[str]:
    pieces, start = [], 0
    while start < len(word):
        mark = "##" if start else ""
        ends = range(start + 1, len(word) + 1)
        found = [end for end in ends if mark + word[start:end] in vocab]
        if not found:
            return ["[UNK]"]
        end = min(found) if shortest else max(found)
        pieces.append(mark + word[start:end])
        start = end
    return pieces


@check
def check_wordpiece(wordpiece: Callable) -> str:
    """``wordpiece(word, vocab) -> pieces``, the longest known piece first."""

    def ask(word: str) -> list[str]:
        answer = wordpiece(word, set(_PIECES))
        if isinstance(answer, str):
            raise Wrong(f"For {word!r} you returned the text {answer!r}; return a list of pieces.")
        if answer is None:
            raise Wrong("Your function returned None; is a `return` missing?")
        return list(answer)

    if (answer := ask("token")) != ["token"]:
        raise Wrong(f"'token' is in the vocabulary, so it is one piece; you gave {answer}.")
    if (answer := ask("tokenization")) != ["token", "##ization"]:
        if answer == ["token", "##iz", "##ation"]:
            raise Wrong(
                "tokenization became token ##iz ##ation, but ##ization is in the vocabulary: try "
                "the longest piece first, not the shortest."
            )
        if answer in (["[UNK]"], ["token", "[UNK]"]):
            raise Wrong(
                "'tokenization' is token + ##ization. A piece that does not start the word is "
                "written with ## in the vocabulary: look for '##ization', not 'ization'."
            )
        if answer == ["token", "ization"]:
            raise Wrong("Keep the ## in the pieces you return: it says that the word goes on.")
        raise Wrong(f"'tokenization' is ['token', '##ization'], not {answer}.")
    if (answer := ask("seals")) != ["seal", "##s"]:
        raise Wrong(f"'seals' is seal + ##s, the longest start that is known; you gave {answer}.")
    if (answer := ask("unable")) != ["un", "##able"]:
        if answer == ["un", "able"]:
            raise Wrong(
                "'unable' became un + able. Inside a word only pieces with ## may be used: ##able."
            )
        raise Wrong(f"'unable' is ['un', '##able'], not {answer}.")
    if (answer := ask("seaq")) != ["[UNK]"]:
        if answer[:1] == ["sea"]:
            raise Wrong(
                f"'seaq' cannot be spelled to its end, and you gave {answer}. The whole word then "
                "becomes the one piece ['[UNK]']."
            )
        raise Wrong(
            f"'seaq' cannot be spelled with this vocabulary: return ['[UNK]'], not {answer}."
        )
    for word in ("unaffable", "unaffordable", "a", "qqq", "saffs", "affable", "tokens"):
        if (answer := ask(word)) != (expected := _wordpiece(word, _PIECES)):
            raise Wrong(f"{word!r} is {expected}, not {answer}.")
    return "Greedy means never going back: one bad long piece can turn a spellable word into [UNK]."


@check
def check_fertility(fertility: Callable) -> str:
    """``fertility(encode, text) -> tokens per word``."""
    tokenizer = BPETokenizer(
        [(b" ", b"t"), (b"h", b"e"), (b" t", b"he"), (b" ", b"s"), (b" s", b"e")]
    )

    def ask(text: str) -> float:
        answer = fertility(tokenizer.encode, text)
        try:
            return float(answer)
        except (TypeError, ValueError):
            raise Wrong(f"Return one number; you returned a {type(answer).__name__}.") from None

    def close(answer: float, value: float) -> bool:
        return abs(answer - value) < 1e-6

    text = "she sees the tea  by  the sea"
    words, n_tokens = text.split(), len(tokenizer.encode(text))
    expected = n_tokens / len(words)
    answer = ask(text)
    if not close(answer, expected):
        by_word = [len(tokenizer.encode(word)) for word in words]
        mistakes = {
            sum(by_word) / len(words): "you encode each word by itself. Then it has lost the space "
            "in front of it, and ' the' is another token than 'the'. Encode the whole text once",
            len(words) / n_tokens: "that is words per token: turn the fraction around",
            n_tokens / len(text): "you divide by the number of characters. Divide by words: "
            "len(text.split())",
            float(n_tokens): "that is the number of tokens. Divide by the number of words",
            float(n_tokens // len(words)): "you round. Divide with / and not with //",
            len(set(tokenizer.encode(text))) / len(words): "you count each distinct token once",
            n_tokens / len(set(words)): "you count each distinct word once",
            n_tokens / len(text.split(" ")): "text.split(' ') finds an empty word between two "
            "spaces. Use text.split()",
            len(text) / len(words): "you count characters. Call `encode` to get the tokens",
        }
        for value, reason in mistakes.items():
            if close(answer, value):
                raise Wrong(f"You got {answer:.3g} instead of {expected:.3g}: {reason}.")
        raise Wrong(f"{text!r} has {n_tokens} tokens and {len(words)} words; you got {answer:.3g}.")
    other = "\nthe\tsea"
    if not close(ask(other), len(tokenizer.encode(other)) / 2):
        raise Wrong(
            f"{other!r} has two words: new lines and tabs separate words too. Use text.split()."
        )
    return "Fertility 1 would be one token a word; what a language pays above that is its tax."
