"""Sentences that practise one thing each, and windows of random tokens that come twice.

As with :mod:`.facts`, only what stands in square brackets counts in the loss: the verb after an
attractor, the pronoun, the mark that closes. The wordings of :mod:`.exam` are not here.
"""

import random
import re
from collections.abc import Callable
from functools import cache

import numpy as np

THINGS = """
key keys; book books; letter letters; picture pictures; door doors; tree trees; flower flowers; box
boxes; cup cups; lamp lamps; house houses; car cars; bridge bridges; road roads; garden gardens;
window windows; clock clocks; chair chairs; shoe shoes; song songs; story stories; toy toys
"""
PEOPLE = """
teacher teachers; farmer farmers; doctor doctors; child children; boy boys; girl girls; man men;
woman women; soldier soldiers; student students; king kings; friend friends; neighbour neighbours;
nurse nurses; driver drivers; singer singers; painter painters; lawyer lawyers
"""
PLACES = (
    "near,behind,beside,next to,in front of,under,with,from,across from,close to,for,on top of,"
    "between"
)
ABOUT = "old,new,very small,big,beautiful,in the town,well known,important,ready,here,quiet,clean"
ACTIONS = """
run runs; sing sings; work works; sleep sleeps; walk walks; laugh laughs; read reads; wait waits;
live lives; play plays; smile smiles; dance dances
"""
SEEING = "know knows; like likes; see sees; help helps; love loves; follow follows; meet meets"
HE = "John,Peter,Tom,James,Paul,David,the boy,the king,my father,his uncle,the old man,my brother"
SHE = "Mary,Anna,Sarah,Lucy,Emma,Jane,the girl,the queen,my mother,her aunt,the old woman,my sister"
THEY = (
    "the children,the girls,the boys,my parents,the two friends,the farmers,the neighbours,"
    "the students,the women,the men"
)
IT = "the dog,the house,the car,the machine,the ship,the tree,the city,the book"
FORMS = {
    HE: "he his him himself",
    SHE: "she her her herself",
    THEY: "they their them themselves",
    IT: "it its it itself",
}
PRONOUNS = """
When {x} came home, [{they}] went to the kitchen.
{x} stayed in bed because [{they}] had a cold.
{x} could not come, so [{they}] wrote a letter.
Before {x} left, [{they}] closed the window.
{x} sat down and opened [{their}] bag.
{x} lost [{their}] keys on the way home.
{x} put on [{their}] coat and went out.
{x} asked a question, and I answered [{them}].
I saw {x} in the street and waved to [{them}].
We met {x} yesterday and invited [{them}] to dinner.
{x} fell and hurt [{themselves}].
In the mirror {x} saw [{themselves}].
{x} bought a cake and ate it all by [{themselves}].
{x} said that [{they}] would come back soon.
Yesterday {x} was here. Today [{they}] did not come.
As soon as {x} heard the news, [{they}] began to cry.
{x} told us about [{their}] friends.
"""
PRONOUNS_OF_IT = """
{x} was so old that [{they}] had to be sold.
I like {x} very much because [{they}] is beautiful.
We looked at {x} for a long time, and then [{they}] was gone.
{x} is famous for [{their}] colour.
"""
VOWELS = (
    "apple,orange,egg,elephant,umbrella,old man,island,idea,angel,animal,empty box,engine,answer,"
    "open door,artist,easy game,onion,uncle,aunt,ugly duck,example,airplane"
)
CONSONANTS = (
    "banana,book,dog,house,car,tree,river,letter,red apple,song,table,new idea,picture,small egg,"
    "flower,good answer,doctor,school,friend,big island,train,story"
)
ARTICLES = """
She ate [{a}] [{x}].
He saw [{a}] [{x}].
There was [{a}] [{x}] on the table.
I would like to have [{a}] [{x}].
It was only [{a}] [{x}].
They talked about [{a}] [{x}] for hours.
My sister drew [{a}] [{x}].
We found [{a}] [{x}] near the road.
"""
SPEECH = (
    "Come in;Sit down;Where are you going?;I am tired;It is late;Look at the moon;We have to go;"
    "Do not be afraid;What a beautiful day!;I will help you;Who is there?;Good morning"
)
CLOSING = """
"{s}[,"] said {x}.
"{s}[,"] {x} said, "and do not forget the bread[."]
{x} said, "{s}[."] Then the door closed.
Then {x} cried, "{s}[!"] Nobody answered.
{x} (the best in the town[)] came in.
The house (a small one near the river[)] was sold.
In the morning ({x} was still asleep[)] it began to rain.
They had everything (bread, cheese, apples and water[)], but nobody was hungry.
The book ("{s}[")] is on the table.
"""
WEATHER = """
{t} the weather {w} [{c}].
The weather was [{c}] {u}.
{t} the weather in {p} {w} [{c}].
She says that the weather {w} [{c}].
We stay at home because the weather {w} [{c}].
In {p} the weather {w} usually [{c}].
I hope that the weather {w} [{c}] {u}.
"""
WEATHER_WORDS = {
    "t": "In spring,In summer,In winter,In the morning,On Monday,This week",
    "w": "is,was,is,will be,is",
    "c": "warm,cold,nice,sunny,hot,beautiful,bad,fine,cloudy,rainy,very cold,very hot,so nice,"
    "getting warmer,getting colder,wet,cool,windy,mild,good",
    "u": "today,this morning,at the moment,for a walk,in the north",
    "p": "the north,the south,the mountains,London,our town,the valley",
}
SENSES = """
bank | money | She put her money into the bank; He got a loan from the bank; We keep our savings in
a bank; My uncle worked at a bank; The thieves stole gold from the bank; He changed his dollars at
the bank; The cheque was paid by the bank; Interest rates are set by the bank; She asked for credit
at the bank; The shop takes its coins to the bank | account; manager; office; accounts; card; loan
bank | water | They sat by the water on the bank; The boat lay at the bank; Reeds grow on the bank;
Fish hide under the bank; The stream washed away the bank; We pitched our tent on the bank; The
swans came up to the bank; He waded through the stream to the bank; Grass covered the green bank;
The beaver built its home in the bank | of the river; of the stream; of the lake; where
the reeds grow
light | brightness | The lamp gives a weak light; She turned on the light; We saw the flame and its
light; In the dark we needed a light; The street lamp threw a yellow light; The torch gave us light;
Plants cannot grow without light; The morning came with a pale light; Stars send us their light;
The fire in the cave gave a red light | bulb; bulbs; of the lamp; shone; of the sun; in the dark
light | weight | The bag was very light; This feather is light; The boy weighed little, he was
light; The box is not heavy, it is light; Her new shoes were soft and light; A bicycle should be
light; The tent is small and light; After a week of little food he was light; The cup is thin and
light; Tin is a metal that is light | as a feather; enough to carry; and easy to lift; not heavy
letter | mail | The postman brought a letter; She sealed the letter; He sent his son a letter;
There was a stamp on the letter; My grandmother mailed a letter; She got an answer to her letter;
The soldier carried her letter; In the box by the door lay a letter; He signed the long letter;
They burned the lover's letter | from his mother; to her friend; that came in the mail; with a stamp
letter | spelling | The word begins with the letter; The first in the alphabet is a letter; He
cannot spell this letter; The vowel is a letter; He forgot to print one letter; On the keyboard I
missed a letter; The name is spelled with a double letter; Capitals are a kind of letter; Between B
and D stands a letter; The sign had lost a letter | A; B; E; S; of the alphabet; in the word
bat | sport | He hit the ball with a bat; The player swung the bat; She bought a new bat | and ball
bat | animals | Through the dark cave flew a bat; In the attic hung a bat; At night we saw a bat |
with wings; flying
spring | seasons | After the winter came the spring; Flowers bloom in the spring; We plant our seeds
in spring | and summer; rain; flowers
spring | metal | The old watch has a broken spring; The mattress has a hard spring; The toy moves by
a spring | made of steel; of steel
cold | temperature | The night was windy and cold; The ice is cold; Snow makes my hands cold | and
wet; as ice
cold | illness | She was in bed with a cold; He sneezed, he had a cold; The doctor cured my cold |
and a fever; and a cough
ring | jewels | He gave his bride a ring; In the box was a golden ring; She wore a ring | on her
finger; of gold
ring | sound | I heard the telephone ring; The bells ring; We heard the alarm ring | loudly; twice
palm | trees | We sat under the tall palm; On the beach grew a palm | tree; trees
palm | hands | He held it in his palm; She read my palm; There was a coin in her palm | of her hand
nail | iron | He hit the iron nail; The picture hangs on a nail; In the board was a rusty nail | and
a hammer
nail | fingers | She cut her nail; He bit his nail; She painted one nail | of her finger; on
her thumb
match | fire | He lit the fire with a match; In the dark burned a match; She struck a match | and a
flame
match | sport | Our team won the match; They played a match; The referee ended the match | against
the other team; of football
"""
SENSE_FRAMES = """
{s}. It was about [{m}].
{s}. Here the word {w} has to do with [{m}].
{s}. So we are talking about [{m}].
"{s}," he read, and thought of [{m}].
{s} [{n}].
{s} [{n}].
"""


def agreement(r: random.Random) -> str:
    """A verb after a subject with an attractor; all four combinations are equally frequent."""
    many, others = r.random() < 0.5, r.random() < 0.5
    people = r.random() < 0.5
    noun = _pair(r, PEOPLE if people else THINGS)[many]
    other = _pair(r, PEOPLE if r.random() < 0.5 else THINGS)[others]
    if r.random() < 0.35:  # a relative clause
        by_them = r.random() < 0.5
        seen = _pair(r, SEEING)[not (others if by_them else many)]
        middle = f"that the {other} {seen}" if by_them else f"who {seen} the {other}"
    else:
        middle = f"{r.choice(PLACES.split(','))} the {other}"
    if people and r.random() < 0.4:
        return f"The {noun} {middle} [{_pair(r, ACTIONS)[not many]}]."
    verb = r.choice(["are", "were", "have been"] if many else ["is", "was", "has been"])
    opening = r.choice(["The", "The", "I think that the", "Today the", "We know that the"])
    return f"{opening} {noun} {middle} [{verb}] {r.choice(ABOUT.split(','))}."


def pronoun(r: random.Random) -> str:
    """A pronoun for somebody who was just named."""
    names = r.choice([HE, SHE, THEY, HE, SHE, THEY, IT])
    they, their, them, themselves = FORMS[names].split()
    text = r.choice(_lines(PRONOUNS_OF_IT if names == IT else PRONOUNS))
    x = r.choice(names.split(","))
    return text.format(x=x, they=they, their=their, them=them, themselves=themselves)


def article(r: random.Random) -> str:
    """An article and what it stands before."""
    a, nouns = r.choice([("an", VOWELS), ("a", CONSONANTS)])
    return r.choice(_lines(ARTICLES)).format(a=a, x=r.choice(nouns.split(",")))


def closing(r: random.Random) -> str:
    """A quotation or a bracket that closes."""
    text = r.choice(_lines(CLOSING))
    said = r.choice(SPEECH.split(";"))
    if said[-1] in "?!":  # has its own mark
        text = text.replace('[,"]', '["]').replace('[."]', '["]').replace('[!"]', '["]')
    return text.format(s=said, x=r.choice(f"{HE},{SHE}".split(",")))


def weather(r: random.Random) -> str:
    """What the weather is like; the moments and places say little, so the answers spread."""
    words = {name: r.choice(part.split(",")) for name, part in WEATHER_WORDS.items()}
    return r.choice(_lines(WEATHER)).format(**words)


def sense(r: random.Random) -> str:
    """A word with two senses, and what it has to do with here or what only this sense goes with.

    What follows at once makes the word's own vector tell the sense.
    """
    ((word, meaning, texts, after),) = r.choices(senses(), [len(row[2]) for row in senses()])
    frame = r.choice(_lines(SENSE_FRAMES))
    return frame.format(s=r.choice(texts), w=word, m=meaning, n=r.choice(after))


@cache
def senses() -> list[tuple[str, str, list[str], list[str]]]:
    """Return words, each with a meaning, sentences that end with it, and what may follow there."""
    rows = []
    for record in re.split(r"\n(?=\w+ \| )", SENSES.strip()):
        word, meaning, texts, after = " ".join(record.split()).split(" | ")
        rows.append((word, meaning, texts.split("; "), after.split("; ")))
    return rows


#: The kinds of sentences, with how often each is drawn.
KINDS: dict[Callable[[random.Random], str], int] = {
    agreement: 8,
    pronoun: 4,
    article: 2,
    closing: 3,
    weather: 2,
    sense: 8,
}


def sentence(r: random.Random) -> str:
    """Return a sentence of some kind, its first letter large, with brackets around what counts."""
    (kind,) = r.choices(list(KINDS), list(KINDS.values()))
    text = kind(r)
    return text[0].upper() + text[1:]


def copy_window(r: np.random.Generator, common: np.ndarray, length: int) -> tuple:
    """Return ids ``(length + 1,)`` of random tokens, and which are a repeat, but for its first.

    A stretch of 4 to a third of the window comes again after a gap, as often as there is room.
    """
    ids, repeat = np.empty(0, np.int64), np.empty(0, bool)
    while len(ids) <= length:
        n, gap = r.integers(4, length // 3), r.integers(0, 24)
        stretch, between = r.choice(common, n), r.choice(common, gap)
        again = np.arange(n) > 0
        ids = np.concatenate([ids, stretch, between, stretch])
        repeat = np.concatenate([repeat, np.zeros(n + gap, bool), again])
    return ids[: length + 1], repeat[: length + 1]


def _pair(r: random.Random, text: str) -> list[str]:
    return r.choice(text.split(";")).split()


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]
