"""The exam's wordings. Nothing here is trained on, and a test compares it with what is.

The words of a question (countries, animals) do occur in training; the sentences do not.
"""

#: Prompt, answer; the control's answers are in no training sentence (see :data:`.facts.CONTROL`).
FACTS = """
The capital of France is | Paris
The capital of Germany is | Berlin
The capital of Japan is | Tokyo
The capital of Spain is | Madrid
If you want to see the capital of Italy, you must go to | Rome
If you want to see the capital of Russia, you must go to | Moscow
The king of England lives in his capital, | London
The opposite of hot is | cold
The opposite of big is | small
The opposite of rich is | poor
The opposite of day is | night
A thing that is not good is | bad
The world has two sides, left and | right
The day after Monday is | Tuesday
The day after Wednesday is | Thursday
The day after Saturday is | Sunday
We meet on Thursday or one day later, on | Friday
The month after March is | April
The month after June is | July
The month after October is | November
In May it is too early, so we go one month later, in | June
One, two, three, | four
Three, four, five, | six
Six, seven, eight, | nine
Ten comes right after nine, and eight comes right after | seven
The color of the sky is | blue
The color of grass is | green
The color of snow is | white
Bananas are | yellow
My blood is | red
In the dark, coal looks | black
The dog | barks
A cat says hello: it | meows
Every cow | moos
The lions | roar
Ducks | quack
One child, two | children
One mouse, two | mice
One foot, two | feet
One tooth, two | teeth
One house, two | houses
One box, two | boxes
"""
CONTROL = """
The capital of Peru is | Lima
The capital of Cuba is | Havana
The capital of Kenya is | Nairobi
The opposite of full is | empty
The opposite of wide is | narrow
The color of cherries is | red
The color of daffodils is | yellow
The swan is | white
The owls | hoot
One goose, two | geese
One hero, two | heroes
"""
#: Subject with an attractor, right verb, wrong verb.
AGREEMENT = """
The cat that chased the mice | was | were
The cats that chased the mouse | were | was
The apples on the plate | are | is
The apple on the plates | is | are
The son of the queens | is | are
The sons of the queen | are | is
A man among the horses | has | have
Many men around the horse | have | has
The price of the tickets | is | are
The prices of the ticket | are | is
The horse beyond the fields | runs | run
The horses beyond the field | run | runs
The smell of the roses | was | were
The walls of the castle | were | was
The boat that the sailors built | was | were
The boats that the sailor built | were | was
The leader of the workers | says | say
The leaders of the worker | say | says
The colour of his eyes | is | are
The dogs of our uncle | are | is
"""
#: Prompt, right pronoun, wrong pronouns.
PRONOUNS = """
Susan was hungry, so | she | he they
Robert was hungry, so | he | she they
The twins were hungry, so | they | he she
The actress smiled because | she | he they
The prince smiled because | he | she they
The visitors smiled because | they | he she
My daughter forgot | her | his their
My son forgot | his | her their
The players forgot | their | his her
Alice looked at | herself | himself themselves
Henry looked at | himself | herself themselves
The dancers looked at | themselves | himself herself
My grandmother is old, but | she | he they
My grandfather is old, but | he | she they
My grandparents are old, but | they | he she
The wife of the baker cleaned | her | his their
The husband of the queen cleaned | his | her their
The princess lost a ring, and I gave it back to | her | him them
The prince lost a ring, and I gave it back to | him | her them
The guests lost a ring, and I gave it back to | them | him her
"""
#: After "a" and after "an": which of the two is likelier relative to the other article.
ARTICLES = """
actor|doctor; ant|bee; arm|leg; army|king; evening|morning; hour|minute; ocean|lake; office|house;
owl|duck; author|writer; exam|test; oven|pot; artist|singer; accident|party; eagle|chicken
"""
ARTICLE_FRAME = "This story is about"
#: Three words with two senses each, six sentences a sense that no training text has.
SENSES = """
bank: She opened an account at the bank | The robbers ran out of the bank | I borrowed cash from the
bank | The clerk works in a bank | My salary goes to the bank | The loan came from our bank
bank: The fisherman sat on the bank | Willows grow along the bank | The river flooded its bank | We
swam across to the other bank | The boat drifted to the muddy bank | The ducks rest on the bank
light: She switched off the light | A candle gives little light | The sun fills the room with light
| The moon spread its silver light | He saw a distant light | The window lets in the light
light: The empty basket was light | A balloon is very light | Her suitcase felt light | Paper is
cheap and light | The wooden chair is strong but light | The bird is small and light
letter: I wrote my aunt a letter | The envelope held a letter | He posted the letter | She answered
his letter | The king sent a secret letter | They read the old love letter
letter: The alphabet ends with this letter | Her name starts with that letter | Each word has a
silent letter | Type the capital letter | The child learned to write the first letter | B is this
letter
"""
#: What greedy text and samples begin with.
OPENINGS = """
The weather is; The cat sat on the; The meaning of life is; Yesterday I went to; My best friend; The
small village; During the night,; Our house; He told the children; The new teacher; Once upon a
time,; The president of our club
"""
#: Words of which at least one should be among the ten likeliest after "The weather is".
WEATHER = """
cold warm hot sunny nice fine bad good cool wet dry cloudy rainy windy beautiful mild pleasant
perfect lovely calm clear getting changing
"""


def rows(text: str) -> list[list[str]]:
    """Return the fields of each line, or of each item where the text has semicolons."""
    lines = text.replace("\n", " ").split(";") if ";" in text else text.strip().splitlines()
    return [[field.strip() for field in line.split("|")] for line in lines]


def senses() -> dict[str, list[list[str]]]:
    """Return, for each word, its groups of sentences that end with it."""
    groups: dict[str, list[list[str]]] = {}
    word = ""
    for line in SENSES.strip().splitlines():
        if ":" in line.split(" ")[0]:
            word, line = line.split(": ")
            groups.setdefault(word, []).append([])
        groups[word][-1].append(line)
    return {
        word: [[s.strip() for s in " ".join(group).split("|")] for group in parts]
        for word, parts in groups.items()
    }


def sentences() -> list[str]:
    """Return all that the exam says, to compare with what is trained on."""
    first = [row[0] for part in (FACTS, CONTROL, AGREEMENT, PRONOUNS) for row in rows(part)]
    meant = [text for groups in senses().values() for group in groups for text in group]
    return first + meant + [row[0] for row in rows(OPENINGS)]
