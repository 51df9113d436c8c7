"""Sentences that practise one thing each, and windows of random tokens that come twice.

As with :mod:`.facts`, only what stands in square brackets counts in the loss: the verb after an
attractor, the pronoun, the mark that closes. The wordings of :mod:`.exam` are not here.
"""

import random
from collections.abc import Callable

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
bank | money | She put her money into the bank; The bank gave him a loan
bank | money | He has an account at a bank
bank | water | They sat on the bank of a river; The boat lay at the bank; Reeds grow on the bank
bat | sport | He hit the ball with a bat; The player swung the bat; She bought a bat for the game
bat | animals | A bat flew through the dark cave; The bat hung in the attic
bat | animals | At night a bat hunts moths
spring | seasons | After the winter came the spring; Flowers bloom in the spring
spring | seasons | We plant seeds in spring
spring | metal | The old watch has a broken spring; The spring in the mattress
spring | metal | The toy moves by a spring
light | brightness | The lamp gives a weak light; She turned on the light
light | brightness | We saw the light of a candle
light | weight | The bag was very light; A feather is light; He carried it easily, it was light
letter | mail | The postman brought a letter; She sealed the letter; He sent a letter to his son
letter | spelling | The word begins with the letter; A is the first letter
letter | spelling | He cannot spell this letter
cold | temperature | The night was windy and cold; The ice is cold; Snow makes my hands cold
cold | illness | She was in bed with a cold; He sneezed, he had a cold; The doctor cured my cold
ring | jewels | He gave his bride a ring; A golden ring; She wore a ring on her finger
ring | sound | I heard the telephone ring; The bells ring; We heard the alarm ring
palm | trees | Under the tall palm; On the beach grew a palm; Coconuts fall from the palm
palm | hands | He held it in his palm; She read my palm; There was a coin in her palm
nail | iron | He hit the nail with a hammer; The picture hangs on a nail; A rusty nail
nail | fingers | She cut her nail; He bit a nail; She painted one nail red
match | fire | He lit the fire with a match; A match burned; She struck a match
match | sport | Our team won the match; They played a match; The referee ended the match
"""
SENSE_FRAMES = """
{s}. It was about [{m}].
{s}. Here the word {w} has to do with [{m}].
{s}. So we are talking about [{m}].
"{s}," he read, and thought of [{m}].
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
    """A word with two senses, and what it has to do with here."""
    word, meaning, texts = (part.strip() for part in r.choice(_lines(SENSES)).split("|"))
    text = r.choice(texts.split(";")).strip()
    return r.choice(_lines(SENSE_FRAMES)).format(s=text, w=word, m=meaning)


#: The kinds of sentences, with how often each is drawn.
KINDS: dict[Callable[[random.Random], str], int] = {
    agreement: 8,
    pronoun: 4,
    article: 2,
    closing: 3,
    weather: 2,
    sense: 4,
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
