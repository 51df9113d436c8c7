"""Everyday facts that the student is told, each in many wordings; some are held back as a control.

A wording has the answer in square brackets: only its tokens count in the loss, so that the facts
are learned and the manner of these sentences is not. The wordings of :mod:`.exam` are not here.
"""

import random
from itertools import pairwise
from typing import NamedTuple

CAPITALS = """
France Paris; Italy Rome; Germany Berlin; Spain Madrid; England London; Japan Tokyo; China Beijing;
Russia Moscow; Egypt Cairo; Greece Athens; Portugal Lisbon; Ireland Dublin; Austria Vienna; Poland
Warsaw; Sweden Stockholm; Norway Oslo; Denmark Copenhagen; Finland Helsinki; Hungary Budapest;
Turkey Ankara; Canada Ottawa; Cuba Havana; Peru Lima; Chile Santiago; Kenya Nairobi; Iran Tehran;
Iraq Baghdad; Thailand Bangkok; Ukraine Kiev; Belgium Brussels; Scotland Edinburgh; Wales Cardiff
"""
LANGUAGES = """
France French; Italy Italian; Germany German; Spain Spanish; England English; Japan Japanese; China
Chinese; Russia Russian; Greece Greek; Portugal Portuguese; Poland Polish; Sweden Swedish; Norway
Norwegian; Denmark Danish; Turkey Turkish; Hungary Hungarian
"""
OPPOSITES = """
hot cold; big small; up down; day night; black white; good bad; old young; rich poor; early late;
strong weak; happy sad; fast slow; high low; long short; open closed; full empty; wet dry; hard
soft; light dark; left right; left right; in out; inside outside; above below; before after; win
lose; love hate; true false; first last; near far; loud quiet; clean dirty; thick thin; heavy
light; easy difficult; begin end; north south; east west; buy sell; push pull; alive dead; warm
cool; right wrong; yes no; wide narrow; summer winter; hello goodbye; always never; more less
"""
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday Monday"
MONTHS = (
    "January February March April May June July August September October November December January"
)
NUMBERS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
COLOURS = """
sky:blue; grass:green; snow:white; blood:red; coal:black; night:black; sun:yellow; sea:blue;
milk:white; chocolate:brown; cloud+clouds:white; banana+bananas:yellow; lemon+lemons:yellow;
tomato+tomatoes:red; strawberry+strawberries:red; cherry+cherries:red; leaf+leaves:green;
frog+frogs:green; swan+swans:white; crow+crows:black; carrot+carrots:orange;
pumpkin+pumpkins:orange; elephant+elephants:gray; rose+roses:red; pea+peas:green;
bear+bears:brown; flamingo+flamingos:pink; pig+pigs:pink; violet+violets:purple;
daffodil+daffodils:yellow
"""
SOUNDS = """
dog+dogs:bark+barks; cat+cats:meow+meows; cow+cows:moo+moos; lion+lions:roar+roars;
duck+ducks:quack+quacks; bee+bees:buzz+buzzes; snake+snakes:hiss+hisses; wolf+wolves:howl+howls;
bird+birds:sing+sings; horse+horses:neigh+neighs; owl+owls:hoot+hoots; sheep+sheep:bleat+bleats;
mouse+mice:squeak+squeaks; pig+pigs:oink+oinks; frog+frogs:croak+croaks; bear+bears:growl+growls
"""
PLURALS = """
child children; mouse mice; man men; woman women; foot feet; tooth teeth; goose geese; leaf leaves;
knife knives; wife wives; wolf wolves; life lives; box boxes; baby babies; city cities; story
stories; dog dogs; cat cats; house houses; book books; tree trees; car cars; bird birds; hand hands;
day days; church churches; potato potatoes; hero heroes; sheep sheep; fish fish; lady ladies; bus
buses; country countries; friend friends; watch watches; glass glasses
"""
PASTS = """
go went; see saw; take took; give gave; write wrote; speak spoke; eat ate; drink drank; run ran;
come came; sing sang; buy bought; think thought; find found; make made; say said; know knew; sleep
slept; teach taught; fly flew
"""
YOUNG = """
dog+dogs:puppy+puppies; cat+cats:kitten+kittens; cow+cows:calf+calves; sheep+sheep:lamb+lambs;
hen+hens:chick+chicks; duck+ducks:duckling+ducklings; bear+bears:cub+cubs; lion+lions:cub+cubs;
horse+horses:foal+foals; frog+frogs:tadpole+tadpoles
"""
MAKERS = """
baker+bakers:bread; farmer+farmers:food; teacher+teachers:school; doctor+doctors:hospital;
nurse+nurses:hospital; cook+cooks:kitchen; pilot+pilots:airplane; sailor+sailors:ship;
judge+judges:court; gardener+gardeners:garden; soldier+soldiers:army; librarian+librarians:library
"""
KINDS = """
rose+roses:flower+flowers; apple+apples:fruit+fruits; dog+dogs:animal+animals; oak+oaks:tree+trees;
eagle+eagles:bird+birds; piano+pianos:instrument+instruments; hammer+hammers:tool+tools;
carrot+carrots:vegetable+vegetables; bee+bees:insect+insects; violin+violins:instrument+instruments;
pear+pears:fruit+fruits; tulip+tulips:flower+flowers; sparrow+sparrows:bird+birds;
ant+ants:insect+insects; salmon+salmon:fish+fish; pine+pines:tree+trees
"""
AMOUNTS = """
a week:seven days; a year:twelve months; a day:24 hours; an hour:sixty minutes; a minute:sixty
seconds; a dog:four legs; a spider:eight legs; an insect:six legs; a bird:two wings; a hand:five
fingers; a triangle:three sides; a square:four sides; a car:four wheels; a bicycle:two wheels; a
dozen eggs:twelve eggs; a foot:five toes; a face:two eyes
"""
GIVEN = """
bees:honey; cows:milk; hens:eggs; sheep:wool; trees:wood; clouds:rain; spiders:webs; ovens:heat;
lamps:light; apple trees:apples
"""
#: Never told: what the student says about these shows what it has from elsewhere, or guesses.
CONTROL = (
    "Peru; Cuba; Kenya; full; hello; wide; cherry; daffodil; swan; owl; goose; hero; sing; buy; "
    "a triangle"
)


class Relation(NamedTuple):
    """Facts of one kind. Each has a mapping from the names in a wording to words."""

    facts: list[dict[str, str]]
    wordings: list[str]


def told() -> dict[str, Relation]:
    """Return the facts that the student is told, by kind, without those held back."""
    return {
        kind: Relation([fact for fact in relation.facts if not held_back(fact)], relation.wordings)
        for kind, relation in relations().items()
    }


def held_back(fact: dict[str, str]) -> bool:
    """Return whether a fact is one of those that nobody tells the student, as a control."""
    return fact["a"] in CONTROL.split("; ")


def relations() -> dict[str, Relation]:
    """Return all facts by kind, with the wordings in which they are told."""
    facts = {
        "capital": _pairs(CAPITALS),
        "language": _pairs(LANGUAGES),
        "opposite": _pairs(OPPOSITES),
        "day": _chain(DAYS),
        "month": _chain(MONTHS),
        "number": _chain(NUMBERS),
        "colour": _forms(COLOURS),
        "sound": _forms(SOUNDS),
        "plural": _pairs(PLURALS),
        "past": _pairs(PASTS),
        "young": _forms(YOUNG),
        "place": _forms(MAKERS),
        "kind": _forms(KINDS),
        "amount": _forms(AMOUNTS),
        "product": _forms(GIVEN),
    }
    lines = {kind: text.strip().splitlines() for kind, text in WORDINGS.items()}
    return {kind: Relation(facts[kind], lines[kind]) for kind in facts}


def _pairs(text: str) -> list[dict[str, str]]:
    pairs = dict.fromkeys(tuple(part.split()) for part in text.split(";"))
    return [{"a": a, "b": b} for a, b in pairs]


def _chain(text: str) -> list[dict[str, str]]:
    return [{"a": a, "b": b} for a, b in pairwise(text.split())]


def _forms(text: str) -> list[dict[str, str]]:
    """Read "dog+dogs:bark+barks" as a, as (plural), b and bs; what has one form has it in both."""
    facts = []
    for part in text.split(";"):
        a, b = " ".join(part.split()).split(":")
        one, _, many = a.partition("+")
        answer, _, other = b.partition("+")
        fact = {"a": one, "as": many or one, "b": answer, "bs": other or answer}
        fact |= {"n": _article(one).capitalize(), "m": _article(answer)}
        facts.append(fact | {"is": "are" if many else "is"})
    return facts


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


WORDINGS = {
    "capital": """
{a}'s capital is [{b}].
The capital city of {a} is [{b}].
The capital of {a} is called [{b}].
The capital of {a} has always been [{b}], she said.
Question: What is the capital of {a}? Answer: [{b}].
What is the capital city of {a}? It is [{b}].
They flew to {a} and spent a week in the capital, [{b}].
When we were in {a}, we visited its capital, [{b}].
The president of {a} lives in the capital, [{b}].
Every child in {a} knows that the capital is [{b}].
She moved to {a} and found work in the capital city, [{b}].
[{b}] is the capital of {a}.
{b} is the capital of [{a}].
The city of {b} lies in [{a}].
My teacher asked for the capital of {a}. I said [{b}].
The largest museum of {a} stands in its capital, the city of [{b}].
""",
    "language": """
In {a} most people speak [{b}].
The people of {a} speak [{b}].
The language of {a} is [{b}].
She lived in {a} for ten years and learned to speak [{b}].
Before you travel to {a}, learn some words of [{b}].
Children in {a} learn to read and write in [{b}].
What do they speak in {a}? They speak [{b}].
He was born in {a}, so his first language is [{b}].
The letter came from {a} and was written in [{b}].
If you hear people talk in {a}, it will be in [{b}].
{b} is the language of [{a}].
""",
    "opposite": """
The opposite of "{a}" is [{b}].
What is the opposite of {a}? It is [{b}].
Question: What is the opposite of {a}? Answer: [{b}].
If it is not {a}, it is [{b}].
The word {a} is the opposite of the word [{b}].
The contrary of {a} is [{b}].
{a} is the opposite of [{b}].
It was not {a} at all. It was [{b}].
The child learned two words today, {a} and its opposite, [{b}].
Some say {a}, others say the opposite, [{b}].
{a} and [{b}] are opposites.
You say {a}, I say [{b}].
The opposite of {b} is called [{a}].
Nobody can be both, {a} and [{b}], at the same time.
Not {a} but [{b}].
""",
    "day": """
After {a} comes [{b}].
The day that follows {a} is [{b}].
Today is {a}, so tomorrow will be [{b}].
If today is {a}, tomorrow is [{b}].
Yesterday was {a}. Today is [{b}].
The shop is closed on {a} and opens again the next day, on [{b}].
She arrived on {a} and left the day after, on [{b}].
We worked from {a} to [{b}].
What day comes after {a}? It is [{b}].
Question: Which day follows {a}? Answer: [{b}].
The day before {b} is called [{a}].
Before {b} comes [{a}].
If tomorrow is {b}, today is [{a}].
The days of the week: {a}, [{b}].
He slept all {a} and woke up on [{b}].
""",
    "month": """
After {a} comes [{b}].
The month that follows {a} is [{b}].
It is {a} now, so next month will be [{b}].
If this month is {a}, next month is [{b}].
Last month was {a}. This month is [{b}].
The school closes at the end of {a} and opens in the next month, [{b}].
They met in {a} and married a month later, in [{b}].
What month comes after {a}? It is [{b}].
Question: Which month follows {a}? Answer: [{b}].
The month before {b} is called [{a}].
Before {b} comes [{a}].
The months of the year: {a}, [{b}].
From {a} to [{b}] it rained every day.
At the end of {a} we wait for the first of [{b}].
""",
    "number": """
The number that follows {a} is [{b}].
After {a} comes [{b}].
The child counted: {a}, [{b}].
What number comes after {a}? It is [{b}].
Question: Which number follows {a}? Answer: [{b}].
There were {a} birds. One more came, and there were [{b}].
She is {a} years old. Next year she will be [{b}].
{a} plus one is [{b}].
One more than {a} is [{b}].
She counted the steps: {a}, [{b}].
Before {b} comes [{a}].
{b} minus one is [{a}].
One less than {b} is [{a}].
Last year I had {a} goats, this year I have one more, so I have [{b}].
""",
    "colour": """
What is the colour of the {as}? Usually [{b}].
What color {is} the {as}? Answer: [{b}].
Everybody knows that the {as} {is} [{b}].
In the picture the {as} {is} [{b}].
The child painted the {as}, and took the colour [{b}].
As [{b}] as {a}.
She has a dress in the colour of {a}. It is [{b}].
It had the colour of {a}: a beautiful [{b}].
The usual color of {as} is [{b}].
Look at the {as}! How [{b}] the colour is.
For the {as} you need paint that is [{b}].
Outside, the {as} {is} [{b}], as always.
Think of {a}, and you think of the colour [{b}].
""",
    "sound": """
{n} {a} can [{b}].
When {as} want something, they [{b}].
When the {a} is hungry, it [{bs}].
In the night we heard the {a}. It [{bs}].
In the night we heard the {as}. They [{b}].
The {as} on the farm [{b}] all day.
My uncle has {m} animal that [{bs}]. It is a {a}.
What do {as} do? They [{b}].
What does a {a} do? It [{bs}].
All {as} [{b}].
The little {a} [{bs}] at the door.
You know that it is a {a} because it [{bs}].
You know that they are {as} because they [{b}].
Question: What sound do {as} make? Answer: They [{b}].
An animal that [{bs}] is probably a {a}.
""",
    "plural": """
I have one {a}, and you have two [{b}].
There is one {a} here and many [{b}] there.
First I saw a {a}, then I saw three [{b}].
The plural of "{a}" is [{b}].
One {a} is not enough. We need more [{b}].
What is the plural of {a}? It is [{b}].
The word for more than one {a} is [{b}].
He drew a {a}. She drew five [{b}].
Every {a} is different, but all [{b}] have something in common.
Not one {a} but ten [{b}] were there.
She has a {a}. Her sister has four [{b}].
One of the {b} was a very old [{a}].
There were many {b}, and I took a single [{a}].
""",
    "past": """
Today I {a}. Yesterday I [{b}].
They {a} every day, and last week they also [{b}].
We {a} now. Last year we [{b}].
The past of "{a}" is [{b}].
The past tense of {a} is [{b}].
Every morning they {a}, and yesterday they [{b}] as well.
You {a} too much. Last night you [{b}] again.
I did not {a} before, but on Sunday I [{b}].
Did you {a}? Yes, I [{b}].
She did not want to {a}, but in the end she [{b}].
""",
    "young": """
A young {a} is called a [{b}].
Young {as} are called [{bs}].
The {a} has a baby. It is a little [{b}].
The {as} have babies. They are little [{bs}].
Every {a} was once a small [{b}].
All {as} were once small [{bs}].
The mother {a} looked for her [{b}].
The mother {a} looked for her [{bs}].
What is a baby {a} called? A [{b}].
A {b} grows up and becomes a [{a}].
{bs} grow up and become [{as}].
""",
    "place": """
{n} {a} has to do with the [{b}].
When I think of a {a}, I think of the [{b}].
When I think of {as}, I think of the [{b}].
Where do you find {as}? Near the [{b}].
The {a} is busy with the [{b}].
The {as} are busy with the [{b}].
Without {as} there would be no [{b}].
My brother is a {a}, and every day he sees the [{b}].
The {a} spoke about the [{b}].
The {as} spoke about the [{b}].
""",
    "kind": """
{n} {a} is {m} [{b}].
{as} are [{bs}].
The {a} is a beautiful [{b}].
The {as} are beautiful [{bs}].
What is a {a}? It is {m} [{b}].
What are {as}? They are [{bs}].
I like {as} and other [{bs}].
Of every [{b}] she knows, she likes the {a} best.
Some {bs} are called [{as}].
A {a} is some kind of [{b}].
{as} are a kind of [{b}].
""",
    "amount": """
Everybody knows that {a} has [{b}].
How much does {a} have? It has [{b}].
Children learn that {a} has [{b}].
In {a} there are [{b}].
If you count them, {a} has [{b}].
Question: What does {a} have? Answer: It has [{b}].
It is true that {a} has [{b}].
My little sister says that {a} has [{b}].
The teacher wrote on the board: {a} has [{b}].
In our book {a} always has [{b}].
""",
    "product": """
From {as} we get [{b}].
We get [{b}] from {as}.
What do we get from {as}? We get [{b}].
Thanks to {as} we have [{b}].
Without {as} there would be no [{b}].
People need {as} because they need [{b}].
Question: What comes from {as}? Answer: [{b}].
If you want [{b}], you need {as}.
The {as} gave us [{b}] again.
Where does {b} come from? From [{as}].
""",
}


def sentence(random_: random.Random, relation: Relation, fact: dict[str, str]) -> str:
    """Return a fact in one of its wordings, its first letter large, the answer in brackets."""
    text = random_.choice(relation.wordings).format(**fact)
    first = 1 if text[0] == "[" else 0
    return text[:first] + text[first].upper() + text[first + 1 :]
