"""What the teacher is asked to write: kinds of text, topics, and beginnings to continue."""

import random

KINDS = """
Write a short story about {}.
Write a short story for children about {}.
Tell a story about a girl and {}.
Tell a story about an old man and {}.
Tell a story about two friends and {}.
Tell a sad story about {}.
Tell a funny story about {}.
Tell a true story about {}.
Write a story about {} that begins in the morning.
Write a story about {} in which somebody learns something.
Explain {} to a child.
Explain {} in a few plain sentences.
What is {}?
Why do people care about {}?
Write a paragraph about the history of {}.
Write a paragraph about {} for a newspaper.
Write a short news report about {}.
Write a letter to a friend about {}.
Write a page of a diary about {}.
Describe {} as if you saw it for the first time.
Describe an ordinary day with {}.
Write a conversation between a mother and her son about {}.
Write a conversation between a teacher and a student about {}.
Write a conversation between two neighbours about {}.
Give some friendly advice about {}.
What do people often get wrong about {}?
What would the world be like without {}?
Write about a memory of {}.
Write an opinion about {} and give reasons.
Compare {} today with {} a hundred years ago.
Write a short speech about {}.
Write a fairy tale about {}.
Write a mystery story about {}.
Write about {} from the point of view of an animal.
Tell me something interesting about {}.
How does {} change through the year?
Write about how {} makes people feel.
Describe a photograph of {}.
Write a paragraph about {} without using difficult words.
What does {} mean to you?
Write a question about {} and answer it.
Ask three questions about {} and answer each in one sentence.
What should everybody know about {}?
Write a short news item about {} in three sentences.
Write the local news of today about {} in plain words.
Explain how to take care of {}, one step after the other.
Give short instructions to somebody who has never had to do with {}.
Write a dialogue between two children about {}, with quotation marks.
Write a dialogue in a shop in which a customer asks about {}.
Write an interview with somebody who knows a lot about {}.
Write five short, simple sentences about {}.
Write a very simple story about {} for a child of five.
Write a bedtime story about {} in short sentences.
Write a postcard that mentions {} and the weather.
"""

TOPICS = """
the weather; rain; snow; the wind; a storm; a sunny day; the summer; the winter; the spring; the
autumn; the moon; the sun; the stars; the sea; a river; a lake; a mountain; a forest; a garden; a
tree; a flower; a field; an island; the desert; a beach; a cat; a dog; a horse; a bird; a fish; a
mouse; a cow; a bear; a fox; a rabbit; an elephant; a lion; a bee; a frog; a spider; a family; a
mother; a father; a brother; a sister; a grandmother; a baby; a friend; a neighbour; a stranger; a
teacher; a doctor; a farmer; a cook; a painter; a musician; a writer; a scientist; a soldier; a
king; a queen; a president; a police officer; a driver; a pilot; a sailor; a child; a student; a
house; a kitchen; a bedroom; a window; a door; a table; a chair; a bed; a lamp; a clock; a mirror;
a letter; a book; a library; a school; a hospital; a shop; a market; a restaurant; a church; a
museum; a theatre; a park; a street; a bridge; a city; a village; a train; a car; a bicycle; a
ship; an airplane; a bus; a road; a map; a journey; a holiday; a birthday; a wedding; a party; a
game; football; music; a song; dancing; painting; a film; a photograph; a dream; sleep; work;
money; a job; a mistake; a promise; a secret; a gift; a question; an idea; time; love; fear; hope;
anger; joy; luck; courage; kindness; honesty; freedom; peace; war; law; a country; a government;
an election; a newspaper; science; mathematics; history; language; a computer; a robot; a
telephone; the internet; electricity; energy; water; fire; air; food; bread; cheese; an apple;
coffee; tea; soup; breakfast; dinner; cooking; health; the heart; the brain; medicine; exercise;
swimming; running; a walk; a farm; animals; plants; the earth; space; a planet; light; colour;
sound; silence; numbers; memory; learning; reading; writing; growing old; being young; moving to a
new town; losing something; finding something; waiting; saying goodbye; coming home; a long night;
an early morning; a cold day; a quiet afternoon; the end of a year; a small box; an old coat; a
pair of shoes; a broken cup; a hat; a key; a wall; a stone; a boat; a ball; a toy; a tool;
shopping; cleaning a room; building a house; planting a seed; fixing a machine; helping somebody;
asking for help; making a choice; telling the truth; being alone; making friends; the meaning of a
word; a good life; the weather forecast; fog; a thunderstorm; a hot day; clouds; the temperature
outside; a duck; a sheep; a pig; a hen; a goat; a wolf; a nurse; a judge; a baker; a bank; a
factory; a tower; a village school; a hotel; a train station; an airport
"""

BEGINNINGS = """
The house was; The children were; My mother told me that; One day the; In the morning we; It was a
cold; She looked at; He wanted to; They had never; The best thing about; When I was young,; There
is a; The first time I; People often say that; The man in the; A little girl; The old woman; In
many countries,; The city is; This year the; The problem with; Every evening,; The dog ran; Our
teacher said; The food was; I think that; We should always; The most important; After the rain,;
The room was; Nobody knew; Last week,; The sun was; My brother and I; The book is about;
Scientists have found that; The river runs; At the end of; The birds were; If you want to; The
train left; Before the war,; The people of this town; You can see; The two friends; A long time
ago,; The price of; The king had; On the table; Some people believe; It is important to; The water
in; The doctor said; As soon as; The company was; Most students; The road to; I have a friend who;
The door opened and; The sky was; In the middle of; The story of; What I like about; The answer
to; It was the first; She had always; He was the; The winter was; The garden behind; The only way
to; Many years later,; The boy sat; The horse stood; The reason for; Life in the; The music was;
The team has; The new school; The rest of the; The weather was; The weather today; The weather in
the north; Tomorrow the weather will; The weather in spring; When the weather is; If the weather
is; The forecast says that; Outside it was; It was raining and; The temperature; Because the
weather was; In winter the weather; The weather had been; She said that the weather; Good weather;
The wind blew; The clouds were; Question: What; Question: Why; Q: How; The answer is; The
government said on; Police said that; Two people were; A fire in; The prime minister; "Where are
you going?" she asked.; "I do not know," said; "Come in," said the; "What is that?" asked the
boy.; "Good morning," said; First, you; To make a; Before you begin,; The women were; The girls
had; The dogs in the; The books on the; The men who; The flowers near the; The teacher of the; The
houses along; My friends have; His parents were; The cat was; A cat sat; She put the; He opened
the; They walked to; The farmer; The nurse; The boys and the girls; We went to the; My favourite;
In the evening the; At school the; On Monday; Last summer; After dinner,; The bus was; The old man
sat; The lamp on the; Mary and John went; Anna gave
"""

#: Beginnings about a topic; the prompts that the model card shows are not among them.
ABOUT = """
{} was
{} can be
When I think of {}, I
She told us about {}, and
For most people, {} means
We had never seen {} like that
The trouble with {} is that
He said that {}
"""


def requests(seed: int) -> list[str]:
    """Return every kind of text about every topic, in an order drawn by ``seed``."""
    asked = [
        kind.format(*[topic] * kind.count("{}")) for kind in _lines(KINDS) for topic in topics()
    ]
    random.Random(seed).shuffle(asked)
    return asked


def beginnings() -> list[str]:
    """Return the beginnings of sentences that the teacher continues."""
    general = [" ".join(part.split()) for part in BEGINNINGS.split(";")]
    about = [begin.format(topic) for topic in topics() for begin in _lines(ABOUT)]
    return general + [text[0].upper() + text[1:] for text in about]


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


def topics() -> list[str]:
    """Return what the texts are about."""
    return [" ".join(part.split()) for part in TOPICS.split(";")]
