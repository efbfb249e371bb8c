# ruff: noqa: E501 (a table keeps one entity on one line)
"""The words and the plots of the course's story grammar, as data.

:mod:`gptoss_lib.stories` says how to read them. In short: ``<small|little>`` picks one and forgets
it, ``<opening>`` follows a rule, ``[hero:child]`` picks one from a list and remembers it,
``{hero.he}`` repeats what is remembered, and a lone ``/`` starts a new paragraph.
"""

import re

__all__ = ["RULES"]


def _table(columns: str, rows: str) -> list[dict]:
    """Read one entity a row, its attributes split by ``|``.

    A column whose name ends in ``*`` holds a list of its own, split by ``;``.
    """
    names = columns.split()
    entities = []
    for row in rows.strip().split("\n"):
        cells = [cell.strip() for cell in row.split("|")]
        if len(cells) != len(names):
            raise ValueError(f"The row {row!r} has {len(cells)} cells; its table has the columns {columns}.")
        entity = {
            name.rstrip("*"): [item.strip() for item in cell.split(";")] if name.endswith("*") else cell
            for name, cell in zip(names, cells, strict=True)
        }
        entities.append(entity)
    return entities


def _words(text: str, **shared) -> list[dict]:
    """Read entities that have but one word of their own, split by commas."""
    return [{"word": word.strip(), **shared} for word in text.split(",")]


def _rules(text: str) -> dict[str, list[tuple[float, str]]]:
    """Read ``== name`` and below it one alternative a bullet, its weight in front of the ``*``."""
    rules: dict[str, list[tuple[float, str]]] = {}
    for block in re.split(r"^== ", text, flags=re.MULTILINE)[1:]:
        name, _, body = block.partition("\n")
        bullets = re.findall(r"^(\d*)\*(.*(?:\n(?!\d*\*).+)*)", body, flags=re.MULTILINE)
        rules[name.strip()] = [(float(weight or 1), _join(lines)) for weight, lines in bullets]
    return rules


def _join(lines: str) -> str:
    """Put a template on one line; a lone slash is a new paragraph, an underscore a space of its own."""
    line = " ".join(lines.split()).replace("] ", "]")
    return re.sub(r" ?/ ?", "\n", line).replace("_", " ")


_SHE = {"he": "she", "him": "her", "his": "her", "himself": "herself", "girl": "girl"}
_HE = {"he": "he", "him": "him", "his": "his", "himself": "himself", "girl": "boy"}

_PEOPLE = {
    "child": _words(
        "Abby, Aisha, Alice, Amy, Anna, Bella, Beth, Carla, Chloe, Clara, Daisy, Dora, Edith, Ella, "
        "Elsie, Emma, Fiona, Freya, Greta, Gwen, Hannah, Hazel, Heidi, Holly, Ingrid, Iris, Ivy, "
        "Jane, Jill, Josie, Julia, Kate, Kira, Laura, Leah, Lily, Lola, Lucy, Luna, Mabel, Marta, "
        "Maya, Megan, Mei, Mia, Molly, Nadia, Naomi, Nelly, Nina, Nora, Olivia, Paula, Penny, Poppy, "
        "Priya, Rachel, Rita, Rosie, Ruby, Sally, Sara, Sophie, Stella, Susie, Tessa, Thea, Tina, "
        "Violet, Wendy, Yara, Zara, Zoe",
        **_SHE,
    )
    + _words(
        "Adam, Alex, Anton, Arlo, Ben, Billy, Bobby, Boris, Bruno, Caleb, Carlos, Charlie, Colin, "
        "Danny, David, Dylan, Eddie, Eli, Ethan, Felix, Finn, Fred, George, Gus, Henry, Hugo, Ian, "
        "Isaac, Ivan, Jack, Jacob, Jake, James, Jimmy, Joe, Josh, Kai, Karl, Kevin, Lars, Leo, Lewis, "
        "Liam, Luca, Luke, Marco, Mateo, Max, Milo, Nathan, Ned, Neil, Nico, Noah, Oliver, Omar, "
        "Oscar, Otto, Owen, Paul, Pedro, Peter, Ravi, Rory, Ryan, Sam, Simon, Theo, Tim, Toby, Tom, "
        "Victor, Walter, Zach",
        **_HE,
    ),
    "elder": _words("mom, mother, grandma, grandmother, aunt, big sister, nana", **_SHE)
    + _words("dad, father, grandpa, grandfather, uncle, big brother, papa", **_HE),
    "neighbor": _words(
        "Mrs. Green, Mrs. Miller, Mrs. Bell, Mrs. Cook, Mrs. Hill, Mrs. Rossi, Mrs. Lopez, Mrs. "
        "Nguyen, Mrs. Fisher, Mrs. Potter, Miss Snow, Miss Carter, Miss Wood, Miss Honey, Miss "
        "Taylor, Mrs. Baker, Mrs. Singh",
        **_SHE,
    )
    + _words(
        "Mr. Brown, Mr. Gray, Mr. King, Mr. Stone, Mr. Young, Mr. Moon, Mr. Garcia, Mr. Kim, Mr. Fox, "
        "Mr. Shaw, Mr. Cooper, Mr. Mason, Mr. Wolf, Mr. Lee, Mr. Bush, Mr. Patel, Mr. Hunter",
        **_HE,
    ),
    "critter": _words(
        "Clover, Honey, Pepper, Maple, Willow, Fern, Berry, Ginger, Dot, Lulu, Mimi, Coco, Bibi, "
        "Kiki, Fifi, Tansy, Pebble, Sunny, Olive, Plum, Petal, Snowy, Bluebell, Dewdrop, Tulip, Mitzi",
        **_SHE,
    )
    + _words(
        "Pip, Patch, Rusty, Bramble, Biscuit, Acorn, Buster, Thistle, Pickle, Nutmeg, Scout, Rocky, "
        "Spot, Socks, Shadow, Toto, Momo, Bobo, Jojo, Hopper, Nibbles, Whiskers, Waffles, Bongo, "
        "Smoky, Dusty",
        **_HE,
    ),
    "animal": _words(
        "fox, rabbit, squirrel, hedgehog, bear, badger, mouse, deer, wolf, raccoon, otter, beaver, "
        "mole, frog, turtle, duck, goose, hare, lizard, porcupine, skunk, chipmunk, toad, sheep, "
        "goat, pony, donkey, pig, lamb, monkey, elephant, giraffe, zebra, hippo, lion, tiger, panda, "
        "koala, kangaroo, camel, moose, lynx, crocodile, penguin, ostrich, peacock, rooster, hen, "
        "crow, parrot, sparrow, robin, cat, puppy, owl, weasel, rat, gecko, hamster, llama"
    ),
    "trait": [
        *_words(
            "kind, brave, curious, cheerful, clever, gentle, quiet, shy, funny, friendly, helpful, "
            "polite, patient, careful, playful, lively, thoughtful, bright, happy, sweet, silly, busy, "
            "dreamy, jolly, merry, calm, proud, stubborn, noisy, chatty, messy, tidy, loyal, generous, "
            "creative, adventurous, eager, daring, bold, caring, loving, nosy, sleepy, forgetful, clumsy, "
            "restless, mischievous, smart, wise, sensible, hopeful, good-hearted, warm-hearted, bouncy, "
            "graceful, modest, serious, trusting"
        ),
        {"word": "honest", "a": "an honest"},
    ],
}

_SOFT = ["woolly", "velvet", "cotton", "knitted", "felt", "fluffy"]
_HARD = ["wooden", "plastic", "tin", "toy"]
_FIRM = ["glass", "metal", "stone", "crystal", "clay"]
_PAPER = ["paper", "cardboard", "silk"]
_RUBBER = ["rubber", "leather"]

_THINGS = {
    "thing": _words(
        "scarf, teddy bear, blanket, pillow, doll, hat, puppet, bunny, cap, bag, purse, cushion, "
        "sweater, glove, mitten, backpack, ribbon, coat, slipper, penguin, lamb, elephant, monkey, "
        "sock",
        made=_SOFT,
    )
    + _words(
        "boat, train, car, truck, robot, drum, whistle, top, horse, puzzle, flute, sword, castle, "
        "dollhouse, rocket, airplane, helicopter, tractor, wagon, sled, scooter, shovel, bucket, "
        "trumpet, guitar, tower, bridge, dinosaur, windmill, steamship, submarine, xylophone, dragon, "
        "camera",
        made=_HARD,
    )
    + _words(
        "ring, key, bell, necklace, bracelet, crown, button, locket, lantern, cup, thimble, mirror, "
        "brooch, star, marble, bottle, flower, egg, box, heart, jewel, turtle, swan, butterfly",
        made=_FIRM,
    )
    + _words("kite, fan, mask, flag, pinwheel, bird, fish, garland, banner, parasol", made=_PAPER)
    + _words("ball, football, beach ball, mouse, boot, balloon animal, duck, spider", made=_RUBBER),
    "color": _words(
        "red, blue, green, yellow, orange, purple, pink, brown, white, black, gray, golden, silver, "
        "turquoise, violet, crimson, striped, spotted, shiny, rainbow"
    ),
    "charm": _words(
        "pebble, feather, acorn, seashell, coin, bead, chestnut, clover leaf, pine cone, pearl, "
        "badge, thread, stamp, sticker, crayon, candle"
    ),
    "fragile": _words(
        "vase, lamp, plate, teapot, picture frame, bowl, jug, statue, snow globe, music box, mug, "
        "candlestick, flowerpot, piggy bank, sugar bowl, figurine, hourglass, pitcher"
    ),
    "seen": _words(
        "cows, bridges, red cars, trees, church towers, horses, clouds, white birds, puddles, tents, "
        "scarecrows, chimneys, barns, ducks, hay bales, street lamps"
    ),
    "pet": _words("dog, cat, parrot, hamster, rabbit, tortoise, terrier, poodle, canary, ferret"),
    "chest": _words("rusty, heavy, battered, carved, leather, wooden, copper, painted, mossy, sealed"),
    "hurdle": _words(
        "a root, a stone, a rope, a shoelace, a bucket, a rake, a puppy, a garden hose, a branch, a "
        "bottle, a drum, a skateboard"
    ),
    "plant": _words(
        "sunflower, rose, tulip, poppy, lily, daisy, pumpkin, dahlia, orchid, foxglove, marigold, "
        "lupine, pepper plant, bluebell, hollyhock, peony, carnation, geranium, iris, cactus, tomato "
        "plant, pansy, violet, hyacinth"
    ),
    "window": _words(
        "on the windowsill, on the balcony, beside the front door, on the kitchen table, on the back "
        "steps, next to the mailbox, on the flat roof, under the skylight"
    ),
    "noise": _words(
        "tap, scratch, bump, creak, squeak, rattle, thud, click, rustle, knock, clatter, pling, plop, "
        "swish, tick, crunch, hiss, whirr"
    ),
    "ghost": _words(
        "monster, ghost, burglar, dragon, robber, crocodile, vampire, goblin, giant, skeleton, "
        "pirate, werewolf, ogre, bear, tiger, alien"
    ),
    "role": _words(
        "king, queen, knight, frog, wolf, tree, moon, sun, shepherd, cook, gardener, soldier, baker, "
        "wizard, donkey, lion, snowman, sailor, mailman, judge, doctor, witch, princess, mushroom, "
        "innkeeper, guard, nightingale"
    ),
    "line": _words(
        "Dinner is ready, Here comes the king, The moon is rising, Look behind you, The ship is "
        "sinking, It is only the wind, The soup is cold, Winter is over, Wake up, The bridge is gone, "
        "Do not open that door, Bring me my boots, The wolves are coming, What a lovely day, Ring the "
        "bells, Mind the step, Somebody stole the cake, Up with the flag"
    ),
    "gem": _words(
        "coins, pearls, marbles, rubies, shells, crystals, diamonds, buttons, beads, emeralds, "
        "sapphires, fossils, medals, tokens"
    ),
    "prize": _words("ribbon, medal, trophy, cup, badge, banner, rosette, wreath"),
    "number": _words(
        "three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen, fifteen, twenty"
    ),
    "craft": _table(
        "word supplies",
        """card|paper and glitter
        necklace|shells and string
        crown|gold paper and glue
        puppet|an old sock and two buttons
        picture|crayons and a lot of paint
        bracelet|beads and a ribbon
        bird house|planks and nails
        mask|feathers and cardboard
        basket|straw and twigs
        boat|walnut shells and a leaf
        scarf|wool and patience
        candle|wax and a wick
        kite|silk and two thin sticks
        bookmark|pressed flowers and tape
        rattle|a jar and dried beans
        wreath|ivy and pine cones
        telescope|tubes and foil
        robot|tin cans and wire
        calendar|stamps and clean white paper
        pillow|cloth and goose feathers""",
    ),
}

_FOOD = {
    "food": _words(
        "cookies, apples, grapes, sandwiches, pancakes, strawberries, cupcakes, waffles, muffins, "
        "noodles, dumplings, cherries, peaches, plums, pears, bananas, raisins, pretzels, crackers, "
        "carrots, doughnuts, brownies, biscuits, raspberries, blueberries, meatballs, pastries, rice "
        "cakes, oranges, nuts, dates, figs, apricots, marshmallows, lollipops, gumdrops, peanuts, "
        "almonds, tangerines, melon slices, cheese rolls, cinnamon buns, popsicles, chocolates, "
        "tacos, scones, toffees, honey cakes, coconuts, mangoes"
    ),
    "fruit": _words(
        "apple, berry, cherry, lemon, banana, peach, plum, pumpkin, carrot, orange, pear, walnut, "
        "chocolate, coconut, ginger, rhubarb, apricot, almond, honey, vanilla"
    ),
    "bake": _words("cake, pie, tart, pudding, bread, cheesecake, loaf, roll, strudel, crumble"),
    "missing": _words(
        "flour, sugar, butter, milk, salt, cinnamon, baking powder, yeast, cream, oil, syrup, cocoa, "
        "yogurt, nutmeg"
    ),
    "forage": _words(
        "acorns, berries, nuts, mushrooms, carrots, seeds, roots, chestnuts, plums, cherries, apples, "
        "pears, hazelnuts, turnips, beechnuts, radishes, blackberries, parsnips, pine nuts, beans, "
        "peas, rose hips"
    ),
}

_PLACES = {
    "place": _table(
        "word to at spots*",
        """park|to the park|in the park|under the bench; behind the slide; beside the pond; near the swings; under the oak tree; next to the fountain
        beach|to the beach|at the beach|behind the sand dune; under the towel; between two rocks; next to the sandcastle; beside the lifeguard's chair
        farm|to the farm|on the farm|behind the barn; under the bale of hay; beside the tractor; inside the henhouse; near the pig pen; behind the milk cans
        zoo|to the zoo|at the zoo|near the lion cage; behind the ticket booth; under the picnic table; beside the seals; next to the monkey house
        market|to the market|at the market|under the fish stall; behind the stack of crates; beside the flower stand; between the melons; near the cheese seller
        library|to the library|in the library|between two tall shelves; behind the thick atlas; under the reading lamp; on the lowest shelf; beside the globe
        museum|to the museum|in the museum|under the whale skeleton; behind the suit of armor; beside the mummy; next to the old cannon; near the dinosaur bones
        school|to the school|at the school|under the desk; behind the blackboard; next to the coat rack; beside the chalk box; near the climbing frame
        playground|to the playground|at the playground|under the seesaw; behind the sandbox; beside the jungle gym; inside the little tunnel; next to the merry-go-round
        forest|to the forest|in the forest|under the pile of leaves; behind the mossy log; inside the hollow tree; beside the stream; next to the fern; among the mushrooms
        lake|to the lake|at the lake|among the reeds; under the dock; beside the rowboat; behind the willow; near the boathouse
        river|to the river|by the river|under the bridge; on the sandy bank; behind the water mill; between the stepping stones
        garden|to the garden|in the garden|under the rose bush; behind the shed; beside the watering can; among the cabbages; next to the compost heap; inside the greenhouse
        harbor|to the harbor|at the harbor|behind the lighthouse; under the fishing net; beside the anchor; next to the barrel; near the ferry
        train station|to the train station|at the train station|under the big clock; behind the suitcase; beside the ticket window; next to the timetable; on platform two
        toy shop|to the toy shop|in the toy shop|behind the rocking horse; under the counter; beside the train set; between the dolls; on the top step
        bakery|to the bakery|in the bakery|under the bread rack; behind the sack of flour; beside the oven; next to the cake stand
        meadow|to the meadow|in the meadow|among the daisies; behind the haystack; under the apple tree; beside the wooden gate; near the beehives
        hill|to the hill|on the hill|behind the windmill; under the old flagpole; beside the ruins; near the flock of sheep
        circus|to the circus|at the circus|under the trapeze; behind the popcorn cart; beside the clown's car; next to the tiger's cage; near the tightrope
        fair|to the fair|at the fair|behind the carousel; under the Ferris wheel; beside the puppet show; next to the candy booth; near the bumper cars
        stable|to the stable|in the stable|under the saddle; behind the hay cart; beside the water trough; next to the gray mare
        attic|to the attic|in the attic|under the dusty sheet; behind the broken chair; inside the trunk; beside the dollhouse; next to the chimney
        barn|to the barn|in the barn|under the ladder; behind the plow; inside the wheelbarrow; beside the sleeping cow
        castle|to the castle|at the castle|behind the drawbridge; under the throne; beside the moat; next to the well; near the highest tower
        orchard|to the orchard|in the orchard|under the plum tree; behind the basket of pears; beside the stone wall; near the scarecrow
        bookshop|to the bookshop|in the bookshop|behind the pile of comics; under the red armchair; beside the cash register; between two cookbooks
        campsite|to the campsite|at the campsite|behind the tent; under the sleeping bag; beside the campfire; next to the canoe
        skating rink|to the skating rink|at the skating rink|under the bleachers; behind the snack bar; beside the lockers; next to the hockey nets
        swimming pool|to the swimming pool|at the swimming pool|under the diving board; behind the showers; beside the pool ladder; next to the water slide
        village square|to the village square|in the village square|under the statue; behind the town hall; beside the bakery cart; next to the drinking fountain
        hospital garden|to the hospital garden|in the hospital garden|under the sundial; behind the hedge; beside the wheelchair ramp; next to the lily pond""",
    ),
    "wild": _table(
        "word at spots*",
        """forest|in the forest|under the mossy log; inside the hollow oak; behind the blackberry bush; between two roots; beside the tiny spring
        meadow|in the meadow|under the clump of clover; behind the gray boulder; beside the poppies; next to the anthill
        jungle|in the jungle|behind the wall of vines; under the giant leaf; beside the hot spring; inside the cave of ferns
        valley|in the valley|behind the waterfall; under the crooked pine; beside the brook; next to the fallen tree; inside the rocky cave
        swamp|in the swamp|under the lily pad; behind the cattails; beside the rotten stump; inside the empty nest
        mountains|in the mountains|under the ledge; behind the snowdrift; beside the steep cliff; inside the narrow crack
        woods|in the woods|under the heap of leaves; behind the elm; beside the puddle; inside the old burrow; next to the toadstool
        savanna|on the savanna|under the thorn tree; behind the termite mound; beside the water hole; inside the dry ditch
        prairie|on the prairie|under the tall grass; behind the tumbleweed; beside the dusty trail; inside the abandoned den
        island|on the island|under the palm tree; behind the heap of seaweed; beside the lagoon; inside the driftwood hut""",
    ),
    "nook": _words(
        "under the bed, behind the curtain, in the closet, on the top shelf, inside the old boot, "
        "under the mattress, in the laundry basket, behind the couch, under the stairs, in the toy "
        "chest, in the kitchen drawer, on top of the wardrobe, behind the bookcase, inside the cookie "
        "jar, under the rug, inside the piano, behind the grandfather clock, under the sink, inside "
        "the teapot, in the umbrella stand, behind the stove, inside the hatbox"
    ),
    "hideout": _words(
        "under the bed, behind the curtain, in the closet, under the stairs, behind the couch, in the "
        "toy chest, in the laundry basket, behind the bookcase, under the table, behind the stove, "
        "under the blanket, in the bathtub, behind the coats, under the piano"
    ),
    "home": _table(
        "word noun",
        """a small cottage by the sea|cottage
        a tall house on a hill|house
        a cozy cabin near the woods|cabin
        a sunny apartment above a bakery|apartment
        an old farmhouse with a squeaky door|farmhouse
        a yellow house at the end of the road|house
        a houseboat on a slow river|houseboat
        a narrow house between two big ones|house
        a cottage with a blue roof|cottage
        a flat above a bicycle shop|flat
        a lighthouse on a rocky island|lighthouse
        a log cabin beside a lake|cabin
        a brick house with a crooked chimney|house
        a tiny apartment full of books|apartment
        a windmill outside the village|windmill
        a white bungalow with a garden|bungalow
        a stone cottage covered in ivy|cottage
        a caravan painted with stars|caravan
        a big noisy house full of cousins|house
        a quiet apartment on the ninth floor|apartment
        a red barn that had become a home|barn
        a farmhouse surrounded by corn|farmhouse
        a little villa under palm trees|villa
        a cabin that smelled of pine|cabin""",
    ),
    "origin": _words(
        "the mountains, the desert, the far north, Japan, Mexico, India, Brazil, Canada, Egypt, "
        "Norway, Kenya, Italy, Poland, China, Turkey, Peru, Ireland, Iceland, Vietnam, Ghana, Greece, "
        "Nepal, Chile, Morocco"
    ),
    "mark": _words(
        "the old stone bridge, the tall pine, the waterfall, the crooked gate, the beehive, the "
        "broken fence, the big round rock, the frozen pond, the three birches, the sunflower field, "
        "the fallen oak, the spider's web, the empty barn, the sleepy volcano, the wishing well, the "
        "bent signpost, the purple thistles"
    ),
    "wonder": _words(
        "the sea, a rainbow, a shooting star, the northern lights, a whale, the first snow, a desert "
        "flower, a moonlit lake, a field of fireflies, the top of the clouds, an iceberg, a sunrise "
        "above the fog, a coral reef, a double rainbow, a lunar eclipse, a geyser, a parade of "
        "lanterns, a hot air balloon"
    ),
}

_ACTIONS = {
    "hobby": _table(
        "word past ing",
        """draw maps|drew maps|drawing maps
        paint stones|painted stones|painting stones
        climb trees|climbed trees|climbing trees
        read comics|read comics|reading comics
        sing old songs|sang old songs|singing old songs
        dance in the rain|danced in the rain|dancing in the rain
        collect stamps|collected stamps|collecting stamps
        build towers|built towers|building towers
        tell jokes|told jokes|telling jokes
        count stars|counted stars|counting stars
        chase butterflies|chased butterflies|chasing butterflies
        plant seeds|planted seeds|planting seeds
        jump in puddles|jumped in puddles|jumping in puddles
        watch birds|watched birds|watching birds
        dig tunnels|dug tunnels|digging tunnels
        feed ducks|fed ducks|feeding ducks
        solve riddles|solved riddles|solving riddles
        write poems|wrote poems|writing poems
        fold paper boats|folded paper boats|folding paper boats
        blow bubbles|blew bubbles|blowing bubbles
        roll down hills|rolled down hills|rolling down hills
        skip rope|skipped rope|skipping rope
        swim|swam|swimming
        pick wildflowers|picked wildflowers|picking wildflowers
        make up stories|made up stories|making up stories
        hunt for bugs|hunted for bugs|hunting for bugs
        race snails|raced snails|racing snails
        kick a ball|kicked a ball|kicking a ball
        invent machines|invented machines|inventing machines
        play the harmonica|played the harmonica|playing the harmonica
        take photographs|took photographs|taking photographs
        carve sticks|carved sticks|carving sticks
        cook soup|cooked soup|cooking soup
        gather leaves|gathered leaves|gathering leaves
        knit socks|knitted socks|knitting socks
        ride ponies|rode ponies|riding ponies
        study insects|studied insects|studying insects
        bang on drums|banged on drums|banging on drums
        whistle tunes|whistled tunes|whistling tunes
        do magic tricks|did magic tricks|doing magic tricks
        play chess|played chess|playing chess
        skate|skated|skating
        catch crickets|caught crickets|catching crickets
        sew costumes|sewed costumes|sewing costumes
        grow tomatoes|grew tomatoes|growing tomatoes
        mix colors|mixed colors|mixing colors""",
    ),
    "skill": _words(
        "swim, whistle, ride a bicycle, skate, juggle, read, write, dance, ski, cook, knit, sew, "
        "paint, sing, climb a rope, do a cartwheel, stand on one leg, skip stones, throw a frisbee, "
        "fly a kite, row a boat, ride a horse, play the piano, play the violin, play the flute, play "
        "chess, count to one hundred, spell long words, tie a bow, hop backward, dive, draw horses, "
        "catch a ball, speak Spanish, fold paper cranes, bake bread, do magic tricks, walk on stilts, "
        "snap two fingers, tell the time, play the trumpet, ride a unicycle, do a somersault, yodel"
    ),
    "chore": _table(
        "word past",
        """water the roses|watered the roses
        feed the hens|fed the hens
        sweep the porch|swept the porch
        wash the dishes|washed the dishes
        fold the laundry|folded the laundry
        rake the leaves|raked the leaves
        walk the dog|walked the dog
        brush the pony|brushed the pony
        set the table|set the table
        shell the peas|shelled the peas
        stack the firewood|stacked the firewood
        clean the fish tank|cleaned the fish tank
        dust the shelves|dusted the shelves
        make the beds|made the beds
        mail the letters|mailed the letters
        peel the potatoes|peeled the potatoes
        mop the floor|mopped the floor
        weed the vegetable patch|weeded the vegetable patch
        polish the boots|polished the boots
        hang up the wash|hung up the wash
        milk the goat|milked the goat
        sort the bottles|sorted the bottles
        shovel the path|shoveled the path
        scrub the tub|scrubbed the tub
        pick the beans|picked the beans
        empty the trash|emptied the trash
        wind the clocks|wound the clocks
        mend the fence|mended the fence""",
    ),
    "game": _words(
        "tag, hide and seek, soccer, hopscotch, catch, checkers, cards, pirates, leapfrog, dodgeball, "
        "basketball, dominoes, ping-pong, knights and dragons, spies, tennis, baseball, explorers, "
        "kings and queens, badminton, marbles, astronauts, detectives, volleyball"
    ),
    "vehicle": _words(
        "bus, train, boat, car, ferry, tram, wagon, sleigh, truck, taxi, van, canoe, subway, horse "
        "cart, camper, bicycle, jeep, sailboat"
    ),
    "gear": _table(
        "word a problem help",
        """umbrella|an umbrella|dark clouds came and it began to rain|They opened the umbrella and stayed dry
        map|a map|they lost their way|They unfolded the map and found the right path
        flashlight|a flashlight|the sun went down and it was too dark to see|They switched on the flashlight and saw the road
        whistle|a whistle|a thick fog hid everyone|They blew the whistle until their friends found them
        blanket|a blanket|a cold wind began to blow|They wrapped the blanket around themselves and were warm
        rope|a rope|a wagon rolled into a ditch|They tied the rope to it and pulled it out
        bandage|a bandage|a toddler fell and scraped a knee|They put the bandage on it and the crying stopped
        sun hat|a sun hat|the sun burned down on their heads|They took turns with the sun hat and felt better
        bottle of water|a bottle of water|it became so hot that they could hardly walk|They drank from the bottle of water and went on
        compass|a compass|all the paths looked the same|They followed the compass and came out at the right place
        net|a net|a straw hat blew into the water|They reached out with the net and fished it out
        ball of string|a ball of string|a bag tore open|They tied it up with the ball of string and lost nothing
        magnet|a magnet|a key fell down a drain|They lowered the magnet and pulled it up again
        towel|a towel|a wave splashed over them|They rubbed themselves dry with the towel and laughed
        ladder|a ladder|a kitten sat high in a tree and could not get down|They leaned the ladder on the trunk and carried it to the ground
        bell|a bell|a flock of sheep blocked the road|They rang the bell and the sheep made way
        box of matches|a box of matches|the campfire went out|They opened the box of matches and lit it again
        spoon|a spoon|there was soup for everyone but nothing to eat it with|They shared the spoon and nobody went hungry
        hammer|a hammer|a plank came loose on the footbridge|They took the hammer and fixed it
        handkerchief|a handkerchief|a baby started to sneeze|They offered the handkerchief and the baby smiled""",
    ),
    "favor": _table(
        "word past",
        """carry these boxes|carried the boxes
        find my glasses|found the glasses
        catch my canary|caught the canary
        water my tulips|watered the tulips
        thread this needle|threaded the needle
        move this table|moved the table
        reach that jar|reached the jar
        open this window|opened the window
        feed my goldfish|fed the goldfish
        read this letter|read the letter
        untangle this yarn|untangled the yarn
        chase the crows away|chased the crows away
        comb my poodle|combed the poodle
        hold this ladder|held the ladder
        taste my jam|tasted the jam
        shake out this carpet|shook out the carpet
        sharpen these pencils|sharpened the pencils
        hang this painting|hung the painting""",
    ),
    "mishap": _table(
        "word fix",
        """fell into the mud|washed off the mud
        broke in two|glued the two halves together
        flew over the fence|climbed over the fence to get it back
        landed in a puddle|dried it in the sun
        got a big scratch|painted over the scratch
        rolled under the gate|crawled under the gate to fetch it
        got stuck in a tree|shook the tree until it came down
        dropped into the well|lifted it out of the well with a bucket
        lost a piece|searched for the missing piece until it turned up
        bounced into the street|looked both ways and brought it back
        fell down the stairs|straightened out the dent
        was bent out of shape|pressed it back into shape""",
    ),
    "insult": _words(
        "mean, selfish, rude, greedy, bossy, lazy, grumpy, nasty, unfair, unkind, spoiled, foolish, "
        "stingy, boring, childish, impossible"
    ),
}

_TROUBLES = {
    "creature": _words(
        "kitten, puppy, bird, duckling, bunny, hedgehog, squirrel, turtle, frog, owl, lamb, fawn, "
        "mouse, pony, chick, goat, sparrow, seagull, fox cub, raven, piglet, swan, lizard, parrot, "
        "calf, pigeon, heron, bear cub, badger, gosling"
    ),
    "trouble": _table(
        "word fix",
        """one leg was caught in a piece of string|loosened the knots one by one
        there was a thorn in one foot|pulled out the thorn as gently as possible
        it was shaking with cold|wrapped it in a warm scarf
        it was tangled in a fishing net|cut the net open with care
        one foot was stuck in a tin can|twisted the tin can until it came off
        it had hurt one leg|bandaged the leg with a handkerchief
        it was wet and hungry|dried it and gave it some crumbs
        a heavy branch held it down|pushed the branch away with both hands
        it was covered in sticky tar|rubbed off the tar with a rag
        it had lost its mother|stroked it and hummed a lullaby
        a burr was stuck in one ear|picked out the burr with two fingers
        it was stung all over by wasps|put cool clay on every sting""",
    ),
    "fear": _table(
        "word event",
        """the dark|all the lights went out
        thunder|a storm rumbled over the roof
        spiders|a spider crawled out of the sink
        big dogs|a huge dog came around the corner
        deep water|the boat rocked far from the shore
        loud noises|the fire alarm began to ring
        high places|the elevator stopped at the very top
        bees|a bee buzzed around the lemonade
        snakes|a snake slid across the path
        the doctor|it was time to see the doctor
        the dentist|it was time to see the dentist
        clowns|a clown knocked on the classroom door
        geese|a row of geese marched across the yard
        trains|a train roared past the platform
        ghosts|something white moved in the hallway
        shadows|a long shadow climbed up the wall
        crowds|the whole square filled with people
        the vacuum cleaner|the vacuum cleaner started to howl
        caves|the path led straight into a cave
        tunnels|the road disappeared into a tunnel
        bats|a bat fluttered around the lamp
        singing on stage|the curtain opened and everyone stared""",
    ),
    "flaw": _table(
        "word crisis rescue",
        """small|fell into a narrow hole|crawled into the narrow hole with a vine and pulled
        slow|ran too fast and sank in quicksand|walked up carefully and held out a long branch
        loud|was lost in a thick mist|called so loudly that the sound led the way home
        quiet|woke an angry swarm of bees|tiptoed in and led the way out without a sound
        big|was swept away by the stream|stepped into the water and stopped the flood
        skinny|was trapped behind two rocks|squeezed between the rocks and rolled one away
        prickly|was cornered by a hungry snake|curled up in front of the snake until it left
        spotted|had to hide from a hawk|stood in front like a patch of leaves until the hawk flew off
        stubborn|could not get over the steep hill|refused to give up and pushed all the way to the top
        talkative|was caught by a grumpy troll|talked and talked until the troll fell asleep
        long-legged|could not cross the deep ditch|stood over the ditch like a bridge
        sleepy|was up all night with bad dreams|yawned so often that the bad dreams went away
        sticky|slipped on a frozen waterfall|clung to the ice and reached out
        round|was stuck on a hilltop in a storm|rolled down like a ball and showed how it is done""",
    ),
    "spirit": _words(
        "fairy, genie, wizard, mermaid, elf, ghost, gnome, pixie, dwarf, talking cat, witch, cloud spirit"
    ),
}

_TIMES = {
    "sky": [
        *_words(
            "sunny, windy, cloudy, warm, cool, bright, gray, breezy, quiet, misty, mild, lovely, chilly, "
            "hot, foggy, peaceful, busy, drizzly, beautiful, lazy, glorious"
        ),
        {"word": "ordinary", "a": "an ordinary"},
    ],
    "time": _words(
        "morning, afternoon, day, Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday, "
        "spring day, summer morning, autumn afternoon, winter morning, spring morning, summer day, "
        "autumn day, holiday, weekend"
    ),
}

_PLOTS = r"""
== story
3* [hero:child][trait:trait][elder:elder][home:home][sky:sky][time:time]
   <opening> <plot><closing>
1* [hero:critter][kind:animal][trait:trait][wild:wild][sky:sky][time:time]
   <animal plot><animal closing>

== opening
4* Once upon a time, there was {trait.a} <little|young> {hero.girl} <named|called> {hero}.
2* Once there was a {hero.girl} <named|called> {hero}, who was <very|always|truly> {trait}.
2* There once was {trait.a} {hero.girl} whose name was {hero}.
3* {hero} was {trait.a} <little|young> {hero.girl}<.| with <look>.>
1* Long ago, in a <town|village|city> <far away|by the sea|near the mountains|between two rivers>,
   there lived {trait.a} {hero.girl} <named|called> {hero}.
1* Everyone <in town|on the street|at school|in the village> knew {hero}, because {hero.he} was such
   {trait.a} {hero.girl}.
1* This is a story about {hero}, {trait.a} {hero.girl} with <look>.

== look
* <curly|messy|long dark|short blond> hair
* <big brown|sparkling green|bright blue> eyes
* a <wide|crooked|shy> smile
* freckles and <dimples|a missing tooth>
* round glasses
* rosy cheeks
* a very loud laugh

== at home
2* {hero.He} lived with {hero.his} {elder} in {home}.
1* {hero.His} home was {home}, and {hero.his} {elder} lived there, too.
1* {hero} and {hero.his} {elder} lived in {home}.
1* Together with {hero.his} {elder}, {hero.he} lived in {home}.

== plot
* <lost and found>
* <the wish>
* <the quarrel>
* <the rescue>
* <the secret>
* <the trip>
* <the promise>
* <the gift>
* <the fear>
* <the newcomer>
* <the cake>
* <the broken thing>
* <the map>
* <the race>
* <the spell>
* <the seed>
* <the noise>
* <the play>

== closing
6*
1* / The end.
1* / {hero} never forgot that {sky} {time}.
1* / That night, {hero} <slept very well|fell asleep with a smile|had sweet dreams> in the {home.noun}.
1* / <Back|Later, back> in the {home.noun}, {hero.his} {elder} <gave {hero.him} a big hug|kissed {hero.him}
   good night|tucked {hero.him} in>.
1* / And if you ever meet {trait.a} {hero.girl} <named|called> {hero}, ask {hero.him} about it.

== one day
3* One {sky} {time},
2* On {sky.a} {time},
1* It happened on {sky.a} {time}:
1* Then came {sky.a} {time}. That day,

== treasure
* {hero.His} favorite thing <of all |>was {color.a} {made} {thing}.
* Of all {hero.his} things, {hero.he} loved {hero.his} {color} {made} {thing} the most.
* {hero} had {color.a} {made} {thing}<.| that {hero.he} took everywhere.| that {hero.he} was very proud of.>
* <For {hero.his} birthday|Last winter|When {hero.he} was sick>, {hero.his} {elder} had given {hero.him}
  {color.a} {made} {thing}.
* {hero} never went <anywhere|to bed|outside> without {hero.his} {color} {made} {thing}.

== how
3*
1*
   _<softly|quietly|gently|slowly|kindly|proudly|bravely|quickly|shyly|happily|politely|calmly|firmly|warmly|seriously|sadly>
1* _with a <smile|sigh|nod|grin|laugh|shrug|wink>
1* _in a <low|clear|tiny|shaky|cheerful> voice

== sadly
3*
1* _<softly|quietly|gently|slowly|bravely|seriously|sadly|shyly|at last>
1* _with a <sigh|sniff|shiver|sad smile>
1* _in a <low|small|tiny|shaky|hoarse> voice

== nature
5*
1* _<Birds|Crickets|Frogs|Blackbirds|Swallows> sang in the <trees|bushes|grass|distance>.
1* _<A soft|A cold|A salty|A warm|A strong> <wind|breeze> was blowing.
1* _The <sky|air|world|street> was full of <swallows|music|light|leaves|voices|soap bubbles>.
1* _<Somewhere|Nearby|Far away>, a <dog barked|bell rang|rooster crowed|door slammed|baby laughed|train
   whistled>.
1* _It smelled of <grass|rain|fresh bread|smoke|pine trees|flowers|wet earth|mint>.
1* _The <clouds|hours> <moved|passed|drifted by> <slowly|like snails|like ships>.

== wild nature
4*
1* _<Crickets|Frogs|Blackbirds|Parrots|Cicadas> sang in the <trees|bushes|grass|distance>.
1* _<A soft|A cold|A dry|A warm|A strong> <wind|breeze> was blowing.
1* _It smelled of <grass|rain|moss|smoke|pine needles|flowers|wet earth|thyme>.
1* _The clouds <moved|passed|drifted by> <slowly|like snails|like ships>.
1* _<High above|Far away|Nearby>, <an eagle circled|a branch cracked|something splashed|a woodpecker
   hammered|thunder growled>.

== junk
* <an old|a wet|a worn|a single> <shoe|sandal|mitten|newspaper>
* <some|a few|dry> <leaves|feathers|twigs|pebbles>
* a <sleepy|striped|fat|black> <cat|lizard|pigeon>
* a <broken|dirty|chipped> <cup|comb|saucer|toy car>
* an empty <bottle|jar|box|can|nest>
* a <rusty|bent|crooked> <nail|spoon|fork|hook>

== sight
* <some|a line of|a hundred> ants
* a <parade|marching band|puppet show|street singer>
* two <squirrels|geese|kittens|magpies>
* <a funny|a tiny|an enormous> <dog|beetle|caterpillar>
* an airplane
* the <clouds|boats|pigeons|jugglers>

== present
* a new <bicycle|sweater|lunch box|wristwatch>
* a <huge|chocolate|three-layer> cake
* <a real|a shiny> <telescope|trumpet|sled>
* <roller|ice> skates
* a <goldfish|guinea pig|parakeet>
* <books|comics|chalk|clay>
* a box of <colored pencils|chocolates|tools>

== comfort
* Do not worry
* Do not cry
* Cheer up
* Dry your tears

== lost and found
*
  [thing:thing][color:color][made:thing.made][place:place][spot:place.spots][wrong:place.spots][friend:child]
  <at home> <treasure>
  /
  <one day> {hero} <took|carried|brought> the {thing} {place.to}.<nature>
  <{hero.He} played <and played |>until the sun was low.|There was so much to see there.|{hero.He} put it
  down for just a moment to watch <sight>.>
  <When it was time to go home, the {thing} was gone|Then {hero.he} looked around and could not see the
  {thing} anywhere|But when {hero.he} reached for the {thing}, it was not there>!
  {hero.He} looked {wrong}, but <found only|there was nothing but> <junk>.
  /
  <A {friend.girl} named {friend} saw that {hero.he} was crying.|{hero.His} friend {friend} came
  running.|Just then, {friend}, a {friend.girl} from {hero.his} school, walked by.>
  "<What is wrong|Why are you so sad|What happened>?" asked {friend}.
  "<I lost my|I cannot find my|Somebody took my|I am looking for my> {color} {thing}," said {hero}<sadly>.
  "<comfort>," said {friend}<how>. "<I will help you look|We will find it together|Two can search better
  than one>."<|_<They searched high and low.|They looked everywhere.|They walked around slowly, step by
  step.>>
  <At last|Finally|After a long while>, {friend} looked {spot}. "<Look|Come quickly|Here>!" {friend.he}
  <called|shouted|cried>.
  /
  <It was the|There lay the|Yes, it was the> {made} {thing}! {hero} <hugged it tightly|jumped for
  joy|laughed and clapped>.
  "Thank you, {friend}," {hero.he} said. "<You are a true friend|I would never have looked {spot}|What would
  I do without you>."
  <moral of finding>

== moral of finding
* From then on, {hero} <took good care of|always kept an eye on> the {color} {thing}.
* At home, {hero} told {hero.his} {elder} that the {thing} had been {spot} <all along|the whole time>.
* That evening, {hero} put the {color} {thing} <next to|under> {hero.his} pillow, where it was safe.
* <Soon|Before long>, {hero} and {friend} were best friends, and all because of {color.a} {thing}.

== the wish
* [skill:skill][friend:child][number:number][food:food]
  <at home> <More than anything, {hero} wanted to learn to {skill}.|{hero.He} had only one wish: to learn to
  {skill}.|Every night, {hero} dreamed that {hero.he} could {skill}.>
  /
  <one day> {hero} tried to {skill}<.| all by {hero.himself}.| for the first time.><|_It went <all
  wrong|badly|terribly>.>
  "<I will never learn it|This is too hard for me|I am no good at this>," {hero.he} <sighed|groaned|sobbed>.
  {hero.His} {elder} <smiled|gave {hero.him} a hug|sat down beside {hero.him}>.
  "<Nobody|No one> can {skill} on the first day," {elder.he} said.
  "<Practice for {number} days|Try again for {number} days|Keep going for {number} days>, and then we will
  eat {food} together."
  /
  <So|And so> {hero} <practiced|worked hard> <every day|each morning|every afternoon>.<nature>
  {hero.His} friend {friend}, who <already knew how|was very good at it|had learned it the year before>,
  came <to help|over to help|along>.
  "<Go slowly|Try again|Take a deep breath|Once more>," {friend} <told {hero.him}|said kindly|said with a
  nod>.<|_<Some days were good, and some days were not.|Sometimes {hero} wanted to stop, but {friend} would
  not let {hero.him}.|Little by little, it got easier.>>
  /
  <After {number} days|When the {number} days were over>, {hero} could <really |>{skill}! {friend}
  <cheered|clapped|jumped up and down>, and {hero.his} {elder} <brought|came with|ran to get> the {food}.
  "<I did it|Look at me|It worked>!" {hero} <shouted|laughed|cried>.
  <moral of trying>

== moral of trying
* Now {hero} knew that <hard things take time|you must not give up|practice makes all the difference>.
* It had taken {number} days, and it was worth <every one|each one> of them.
* <They ate until they were full|The {food} had never tasted so good>, and everyone thanked {friend}.
* A year later, {hero} taught a <younger child|cousin|neighbor> to {skill}, too.

== the quarrel
* [friend:child][thing:thing][color:color][made:thing.made][mishap:mishap][insult:insult]
  <at home> <treasure>
  /
  <one day> {hero.his} <friend|good friend> {friend} came <to play|over|to visit>. {friend} <reached
  for|picked up|wanted> the {thing}.
  "<Let me play with it|It is my turn|Give it to me>," {friend.he} said.
  "No, it is mine!" <said|yelled|cried> {hero}.
  {hero} pulled, and {friend} pulled<.| even harder.> Then the {thing} {mishap}.
  "You are so {insult}!" {friend} <shouted|said>, and {friend.he} <ran home|walked away|slammed the door>.
  /
  {hero} sat alone <on the steps|under a tree|by the window>.<nature><|_{hero.He} <felt bad|already missed
  {friend}|had a lump in {hero.his} throat>.>
  {hero.His} {elder} <asked what was wrong|saw it at once|came in>, and {hero} told {elder.him}
  <everything|the whole story|what had happened>.
  "It is only {thing.a}," said {hero.his} {elder}. "<A good friend is much harder to find|But {friend} is
  your friend|Friends are worth more than things>."
  /
  <Then|An hour later|Before dinner> there was a knock at the <door|window>. It was {friend}.
  "I am sorry that I called you {insult}," {friend.he} <said|mumbled|began>.
  "I am sorry, too," said {hero}<sadly>. "<Let us share|We can take turns|You may go first this time>."
  So they {mishap.fix}, and <then|afterward> they played with the {color} {made} {thing} <until dark|all
  afternoon|for hours>.
  <moral of peace>

== moral of peace
* [food:food]{hero.His} {elder} brought them {food}, and they shared those, too.
* After that, nobody was {insult} <anymore|again for a long time>.
* It is <hard|brave> to say sorry, but it <helps|works>.
* "<You are my best friend|I like you more than any toy>," {hero} told {friend}, and {friend.he}
  <smiled|blushed|nodded>.

== the rescue
* [place:place][spot:place.spots][creature:creature][trouble:trouble][name:critter][number:number]
  <at home>
  /
  <one day> {hero} walked {place.to}.<nature> <Suddenly|There|All at once>, {hero.he} heard a
  <soft|tiny|sad|strange> <sound|cry>.
  {hero.He} looked {spot}, and there was a <little|small|tiny> {creature}. {trouble.Word}.
  "Do not be afraid," {hero} <whispered|said><sadly>. {hero.He} {trouble.fix}.
  Then {hero.he} <carried|brought|took> the {creature} home<.| in {hero.his} jacket.| in a basket.>
  /
  {hero.His} {elder} made <a soft bed|a nest|a warm corner> for it <in a box|near the stove|under the
  window>.
  "What will you call it?" {elder.he} asked<how>.
  "{name}," said {hero}<how>. "<I will call it {name}|It looks like {name.a}|The name has to be
  {name}>."<|_{hero} fed {name} every <morning|evening|hour> and <sang to it|told it stories|sat beside
  it>.>
  <One week|Two weeks|A month> later, {name} was <strong|well|healthy> again.
  /
  "It is time to let {name} go," said {hero.his} {elder}. "{creature.A} <needs to be free|belongs
  outside|has a family, too>."<|_{hero} <cried a little|was sad>, but {hero.he} knew that it was true.>
  They <took|carried|brought> {name} back {place.to}. "Goodbye, {name}," said {hero}<sadly>. "<Be careful|Do
  not forget me|Come and see me>."
  /
  {number.Word} days later, {hero} came back {place.to}.
  <moral of letting go>

== moral of letting go
* There was the {creature}, waiting {spot}. It remembered {hero.him}!
* {hero} looked {spot} and found <a shiny stone|a feather|a flower>. "Thank you, {name}," {hero.he}
  <whispered|said>.
* <Something moved|There was a rustle> {spot}, and out came {name} with <three|two|four> babies.

== the secret
*
  [friend:child][place:place][spot:place.spots][color:color][thing:thing][made:thing.made][loved:elder][asker:child][food:food]
  <at home>
  /
  <one day> {hero.his} friend {friend} took {hero.him} {place.to}.<nature>
  "Can you keep a secret?" {friend} <whispered|asked><how>. "<Of course|Yes|I can>," said {hero}.<|_{friend}
  <looked left and right|made sure that nobody was near|put a finger to {friend.his} lips>.> Then {friend} showed {hero.him} {color.a} {made} {thing}, hidden {spot}.
  "It is a birthday present for my {loved}," {friend.he} said<how>. "<Promise not to tell|Do not tell
  anybody|You must not say a word>!" "I promise," said {hero}<how>.
  /
  <On the way home|The next morning|At school>, {hero} met {asker}. "What did {friend} <show|tell> you?"
  asked {asker}<how>.
  "I cannot say," {hero} <answered|said><how>.
  "You can have <all my|half of my|my best> {food} if you tell me!" <said|promised> {asker}.
  {hero} loved {food}, and {hero.he} was <very |>hungry. <But {hero.he} shook {hero.his} head|It was not an
  easy choice|{hero.He} thought about it for a long time>.
  "No," {hero.he} said. "<A secret is a secret|I made a promise|{friend} trusts me>."
  /
  <A week later|The next day|On Sunday>, {friend.s} {loved} opened a <big|small|heavy> box. Inside was the
  {color} {thing}!
  "<What a surprise|I had no idea|How wonderful>!" {loved.he} <cried|said|laughed>.
  <moral of trust>

== moral of trust
* {friend} <winked at|hugged> {hero}. "You did not tell {asker}," {friend.he} whispered. "<Thank you|I knew
  it>."
* {asker} was there, too. "So that was the secret!" said {asker}. "Here, have some {food}. You <earned
  them|are a good friend>."
* {hero} smiled. Nobody would ever know how well {hero.he} had guarded the {made} {thing} {spot}.
* From that day on, {friend} told {hero} all {friend.his} secrets.

== the trip
* [place:place][vehicle:vehicle][food:food][gear:gear][number:number][seen:seen]
  <at home>
  /
  <one day> {hero} and {hero.his} {elder} went {place.to} by {vehicle}. <They packed|They took along|In the
  bag were> some {food} and {gear.a}.
  "Why do we need {gear.a}?" asked {hero}<how>.
  "<You will see|Wait and see|You never know>," said {hero.his} {elder}<how>.
  /
  From the {vehicle}, {hero} counted {number} {seen}.<nature><|_<It was fun {place.at}.|They had a wonderful
  time {place.at}.|There was a lot to do {place.at}.>><|_They <ran around|looked at everything|made new
  friends> and <laughed a lot|took their time|got very dirty>.>
  But then {gear.problem}.
  "<Oh no|Oh dear|Look>!" <said|cried> {hero}. "What <do|can|shall> we do now?"
  {hero.His} {elder} <only smiled|opened the bag|winked>. {gear.help}.
  "Now I know why we need {gear.a}!" <laughed|said|cried> {hero}.
  /
  <On the way back|On the way home|At sunset>, they <ate|finished> the {food}.
  <moral of packing>

== moral of packing
* "What did you like best?" asked {hero.his} {elder}. "The {number} {seen}," said {hero}. "And the {gear}!"
* Since then, {hero} has never gone {place.to} without {gear.a}.
* At home, {hero} drew a picture: a {vehicle}, {number} {seen}, and {gear.a}.
* The hum of the {vehicle} made {hero} sleepy, and {hero.he} dreamed of {seen}.

== the promise
* [chore:chore][friend:child][game:game][place:outside]
  <at home>
  /
  <one day> {hero.his} {elder} had to go <to work|into town|out>. "Please {chore} while I am <away|gone>,"
  {elder.he} said<how>.
  "I will," said {hero}<how>. "I promise."<nature>
  /
  But <soon|after a minute|before long> {friend} <knocked at the door|looked over the fence|rang the bell>.
  "<Come|Let us go> {place.to}!" {friend.he} <said|called>. "We can play {game}!"
  {hero} <loved|really liked> {game}.
  <<kept>|<broken>>

== kept
* "I would love to, but I have to {chore} first," {hero} said. "I promised."
  "Then I will help you," said {friend}<how>.
  <So they {chore.past} together, and it did not take long.|With two pairs of hands, it was done in no
  time.>
  Then they <ran|went|raced> {place.to} and played {game} until <the sun went down|the stars came out|they
  were tired>.
  /
  <In the evening|At six|Later>, {hero.his} {elder} came home. "Did you {chore}?" {elder.he} asked.
  "Yes, and {friend} helped me," said {hero}.
  <moral of promises>

== broken
* "Just for a little while," thought {hero}, and {hero.he} went along.
  They played {game} {place.at}, and {hero} forgot <everything else|the time|what {hero.he} had promised>.
  When {hero.he} came home, it was <dark|late|raining>, and {hero.his} {elder} was waiting. "Did you
  {chore}?" {elder.he} asked.
  {hero} <looked at {hero.his} shoes|turned red|wanted to hide>. "No," {hero.he} said<sadly>. "I went
  {place.to} with {friend}. I broke my promise, and I am <very |really |so |>sorry."
  /
  "<Thank you for telling me the truth|At least you are honest>," said {hero.his} {elder}. {elder.He} lit a
  lantern, and together they {chore.past} <in the moonlight|that very night>.
  The next time {friend} wanted to play {game}, {hero} laughed. "<Wait, first|Sure, but first> I have to {chore}!"

== moral of promises
* "A promise is a promise," {elder.he} <said|smiled>, "and you kept it."
* {hero.His} {elder} was <very proud|so happy> that {elder.he} played {game} with them <the next day|after
  dinner>.
* "Then tomorrow I will {chore}," said {hero.his} {elder}, "and you two can play {game} all day."

== the gift
* [friend:child][number:number][craft:craft][color:color][nook:nook]
  <at home>
  /
  <one day> {hero} remembered that {friend.s} birthday was coming.
  But {hero.he} had only {number} coins, and everything in the <shop|store|window> <cost more|was too
  expensive>.
  "Then I will make a present <myself|with my own hands>," {hero.he} decided.
  {hero.He} took {craft.supplies} and made {craft.a}. It took <all day|hours and hours|a whole
  week>.<nature>
  {hero.He} wrapped it in {color} paper and hid it {nook}.
  "What did you put {nook}?" asked {hero.his} {elder}<how>.
  "<It is a secret|You must not look>!" said {hero}<how>.
  /
  At the party, {friend} got <present> and <present>.
  {hero} felt <shy|small>.<|_"Mine is not so big," {hero.he} <said|mumbled>.>
  {friend} <tore off|opened|unfolded> the {color} paper. "{craft.A}! Did you make it<| yourself>?"
  {friend.he} <asked|cried>.
  "Yes, from {craft.supplies}," said {hero}<how>.
  "<It is my favorite present|Nobody else has one like it|I will keep it forever>!" said {friend}<.|, and
  {friend.he} meant it.>
  <moral of giving>

== moral of giving
* {hero} still had {number} coins, so they bought <ice cream|candy|lemonade> for two.
* <Gifts|Presents> do not have to cost a lot when they come from the heart.
* For years, the {craft} <stood on|hung above> {friend.s} desk.
* That winter, {friend} made {craft.a} for {hero}, too, and wrapped it in {color} paper.

== the fear
* [fear:fear][nook:hideout][charm:charm][color:color][number:number][friend:child][worry:fear]
  <at home> There was only one problem: {hero} was <very |>afraid of {fear}.
  /
  <one day> {hero.his} {elder} found {hero.him} hiding {nook}.
  "<Are you thinking|Is it because> of {fear}<| again>?" {elder.he} asked. {hero} <nodded|whispered
  yes|began to cry>.
  {hero.His} {elder} <reached into a pocket|opened a drawer|thought for a moment> and gave {hero.him}
  {color.a} {charm}.
  "When you are afraid, <hold it tightly|squeeze it> and count to {number}," {elder.he} said<how>.
  /
  <The next day|That same night|A week later>, {fear.event}.
  {hero} wanted to <run away|scream|hide {nook}>. But {hero.he} <took out|felt for> the {color} {charm} and
  counted to {number}.<|_When {hero.he} was done, {hero.he} <was not so afraid anymore|could breathe
  again|even smiled a little>.>
  /
  Later, {hero} met {hero.his} friend {friend}, who <was crying|looked pale|would not come out>. "I am
  afraid of {worry}," said {friend}<sadly>.
  <{hero}|At once, {hero}|Without a word, {hero}> put the {charm} into {friend.s} hand.
  "<Hold it tightly|Squeeze it> and count to {number}," {hero} said. "It helped me with {fear}."
  <moral of courage>

== moral of courage
* And it worked for {worry}, too.
* Since then, the {color} {charm} has <belonged to both of them|gone from hand to hand>.
* Being brave does not mean that you are never afraid. It means that you <count to {number}|try
  anyway>.
* "Thank you," said {friend}. "Now I only need to be afraid of {worry} until {number}."

== the newcomer
* [friend:child][origin:origin][hobby:hobby][pastime:hobby][food:food]
  <at home> {hero.He} loved to {pastime}.
  /
  <one day> a new {friend.girl} came to {hero.s} <class|school>. {friend.His} name was {friend}, and
  {friend.he} came from {origin}.
  <Nobody talked to {friend.him}|The other children only stared|Everyone was busy>, and at lunch {friend.he}
  sat alone.
  {hero} <went over|took a deep breath and went over|thought about it for a minute and went over>. "May I
  sit <here|with you|next to you>?" {hero.he} asked<how>. {friend} <nodded|moved over|looked up>.
  "What do you like to do?" asked {hero}.
  "I like to {hobby}," {friend} said<how>. "And you?"
  "I like to {pastime}," said {hero}<how>. "<Will you show me how to {hobby}|Can you teach me how to
  {hobby}>?"
  /
  {friend} <smiled|beamed> and opened {friend.his} lunch box. "<Try these|Here, take some|These are for
  you>," {friend.he} said<how>. "We eat {food} like this <in|back in> {origin}."<|_The {food} tasted
  <wonderful|strange but good|of honey and spices>.>
  <After school|That afternoon>, they {hobby.past} <until dinner|for an hour>, and then they {pastime.past}
  <until bedtime|a little, too>.<nature>
  <moral of welcome>

== moral of welcome
* <Soon|After a month>, half of the school was {hobby.ing}.
* "I do not miss {origin} so much now," said {friend}.
* "I was alone on my first day, too," {hero} told {hero.his} {elder} that night. "Now {friend} has a friend,
  and I have {food}!"
* Every <Friday|weekend> since then, the two of them have been {hobby.ing} or {pastime.ing}.

== the cake
* [fruit:fruit][bake:bake][missing:missing][neighbor:neighbor][favor:favor][number:number]
  <at home>
  /
  <one day> {hero} and {hero.his} {elder} wanted to <make|bake> {fruit.a} {bake}.<|_They <washed their
  hands|put on aprons|turned on the oven>.> Then {hero} <looked into|opened> the <cupboard|pantry>.
  "<There is no|We have no|We need> {missing}!" {hero.he} said<how>.
  "<Run over to {neighbor}|Go and ask {neighbor}|Maybe {neighbor} has some>," said {hero.his} {elder}.
  /
  {hero} <knocked on the door|rang the bell>. "<Good morning|Hello>, {neighbor}! May I have some {missing},
  please?"
  "<Of course|Certainly|Gladly>, if you {favor}," said {neighbor}. "I <cannot do it|have tried all day>."
  So {hero} {favor.past}. {neighbor} <laughed|clapped> and gave {hero.him} <a whole bag of|a jar of|more
  than enough> {missing}.<nature>
  /
  <Soon|An hour later>, the {home.noun} smelled of {fruit} {bake}. They <cut it into|made> {number}
  <pieces|slices>.
  "Who gets the first piece?" asked {hero.his} {elder}<how>.
  "{neighbor}," said {hero}, "because without {neighbor.him} we would have no {missing}."
  <moral of sharing>

== moral of sharing
* "{fruit.A} {bake}!" said {neighbor} at the door. "<My favorite|How did you know>?"
* So the three of them sat <in the garden|at the table> and ate all {number} pieces.
* {neighbor} took a bite and closed {neighbor.his} eyes. "Come back when you need more {missing},"
  {neighbor.he} said.

== the broken thing
* [color:color][fragile:fragile][game:game][number:number][nook:nook][pet:pet][name:critter]
  <at home> They had a {pet} named {name}. On <the shelf|the piano|a little table> stood {color.a} {fragile}
  that {hero.his} {elder} <loved|had painted|had brought from far away>.
  /
  <one day> {hero} played {game} in the house, although <it was not allowed|{hero.he} knew better>.
  <Crash|Bang|Oh no>! The {fragile} <fell down|tipped over> and broke into {number} pieces.<|_{hero} <turned
  pale|was scared|did not know what to do>.> {hero.He} <swept up|gathered|collected> the pieces and hid them
  {nook}.
  /
  At dinner, {hero.his} {elder} <looked around|looked up|put down the fork>. "Where is my {color}
  {fragile}?" {elder.he} asked.
  <"Maybe {name} broke it," {hero} wanted to say|"It was {name}," {hero} almost said>. But the {pet} looked
  at {hero.him} with <big|sad|trusting> eyes.
  "It was me," said {hero}<sadly>. "I played {game} in the house, and I hid the pieces {nook}."
  /
  {hero.His} {elder} was <quiet|silent> for a moment. "<Thank you for telling the truth|That was brave>,"
  {elder.he} said. "Get the glue."
  Together they glued all {number} pieces<.| back together.>
  <moral of truth>

== moral of truth
* The {fragile} was never quite the same, but {hero.his} {elder} loved it even more.
* {hero} gave {name} <an extra treat|a long hug>, and {hero.he} played {game} outside from then on.
* "{fragile.A} can be mended," said {hero.his} {elder}, "<but a lie is harder to mend|and so can a
  mistake>."

== the map
*
  [friend:child][nook:nook][place:outside][spot:place.spots][steps:number][gem:gem][made:chest][next:hideout]
  <at home>
  /
  <one day> {hero} and {hero.his} friend {friend} found an old map {nook}.
  "<It is a treasure map|Look, there is a cross on it>!" <cried|whispered|said> {friend}. "It leads
  {place.to}!"
  They <ran|hurried|rode their bicycles> {place.to}. "Now {steps} steps <to the left|to the right|straight
  ahead>," said {hero}<how>.
  They counted to {steps} and stopped.<|_<There was nothing to see|They saw only grass and stones|Nothing
  was there>.> "<Wait|I know>," said {friend}, "let us look {spot}."
  /
  They dug {spot} until they <hit something hard|heard a clunk>. It was {made.a} chest full of {gem}!
  <On top lay|Inside was> a note. "These {gem} are for someone {trait}," it said. "<Share them well|Do not
  keep them all>."
  "That must be you," said {friend}, "because <nobody|no one> is as {trait} as you."
  /
  <moral of treasure>

== moral of treasure
* They shared the {gem} and hid the map {next}, so that another child could find it.
* {hero} took one half of the {gem}, and {friend} took the other. The {made} chest now stands {next}.
* They gave the {gem} to <the children's hospital|the school> and hid the {made} chest {next}, in case they
  needed it again.

== the race
* [place:outside][color:color][prize:prize][number:number][friend:child][hurdle:hurdle][winner:child]
  <at home>
  /
  <one day> there was a big race {place.at}. The winner would get {color.a} {prize}.<nature>
  {hero} had <trained|practiced> for {number} weeks, and so had {hero.his} friend {friend}.
  "Ready, set, go!" <shouted|called> {hero.his} {elder}. {hero} ran <like the wind|as fast as {hero.he}
  could>, and soon {hero.he} was in front.
  /
  <Then there was a cry|Behind {hero.him}, somebody cried out|Then came a crash>. {friend} had tripped over
  {hurdle}!
  {hero} could <already see|almost touch> the finish line.<|_{hero.He} <thought of|already saw> the {color}
  {prize}.> Then {hero.he} <turned around|stopped|ran back>.
  "Lean on me," {hero.he} said<how>.
  <winner> raced past them and won. {hero} and {friend} came in last, arm in arm, but everyone
  <cheered|clapped> for them.
  /
  <Afterward|Later|When it was over>, {winner} came over. "You trained for {number} weeks," {winner.he}
  said, "and you stopped because {friend} fell over {hurdle}?"
  "<Of course|Yes>," said {hero}. "{friend} is my friend."
  <moral of kindness>

== winner
* A {winner.girl} named {winner}
* {winner}, who had been third,

== moral of kindness
* {winner} took off the {color} {prize}. "Then this is yours," {winner.he} said.
* {hero.His} {elder} had seen it all. That evening, {elder.he} made {hero.him} a <paper|cardboard> {prize},
  and it was worth more than the {color} one.
* The next year, all three of them crossed the line together, and the {prize} was cut into three.

== the seed
* [neighbor:neighbor][color:color][plant:plant][number:number][friend:child][nook:window]
  <at home>
  /
  <one day> {neighbor} gave {hero} a <small|tiny> seed. "Plant it and be patient," {neighbor.he} said<how>.
  "It will be {color.a} {plant}."
  {hero} put it into a pot and set the pot {nook}. {hero.He} watered it every <morning|evening|day>.<nature>
  But after {number} days, there was still nothing to see.
  "It is <dead|just a stone|only mud>," said {hero.his} friend {friend}<how>. "<Throw it away|Forget about
  it|Let us do something else>."
  "No," said {hero}<how>. "{neighbor} told me to be patient."
  /
  {hero} waited {number} more days. <Then, one morning,|Then, all at once,> there was a tiny green tip in
  the pot {nook}!
  It grew and grew, and <soon|in summer> it was {color.a} {plant}, <as tall as {hero}|taller than
  {friend}|the finest on the street>.
  "I was wrong," said {friend}<how>. "<How did you know|Can I have a seed, too>?"
  <moral of patience>

== moral of patience
* {hero} <only smiled|laughed>. "{neighbor} told me," {hero.he} said.
* {hero} carried the {plant} over to {neighbor}, who <had tears in {neighbor.his} eyes|clapped
  {neighbor.his} hands>.
* {friend} got a seed, too, and now there are two pots {nook}.
* In the fall, {hero} gave {friend} {number} seeds, and told {friend.him} to be patient.

== the noise
* [noise:noise][nook:nook][ghost:ghost][pet:pet][name:critter][lost:charm][color:color]
  <at home> They had a {pet} named {name}. {hero.He} also had {color.a} {lost} for good luck, but it had
  been <missing|lost> for weeks.
  /
  <one day> {hero} heard a <strange|funny|soft> noise {nook}. It went {noise}, {noise}, {noise}.
  "There is {ghost.a} {nook}!" {hero} <cried|told {hero.his} {elder}|whispered>.
  "<I do not think so,|Are you sure?>" said {hero.his} {elder}<how>. "{ghost.A} would be <louder|bigger|much
  too shy>."<|_{hero.He} did not dare to look.> All <day|evening> long, it went {noise}, {noise},
  {noise}.<nature>
  /
  <At last|In the end>, {hero} took a <flashlight|broom|deep breath> and {hero.his} {elder} held {hero.his}
  hand. They looked {nook}.
  There sat {name} the {pet}, <playing with|rolling around> something small. It was the {color} {lost}!
  "So this is our {ghost}," <laughed|said> {hero.his} {elder}<how>.
  <moral of the noise>

== moral of the noise
* {hero} put the {lost} into {hero.his} pocket and gave {name} a <cracker|kiss|new ball>.
* Whenever something went {noise} after that, {hero} just said, "That is only {name}."
* And since that day, {hero} has called {name} the little {ghost}.

== the play
* [role:role][dream:role][friend:child][number:number][line:line]
  <at home>
  /
  <one day> {hero.s} class <planned|began to practice> a play. {hero} wanted to be the {dream}. But the
  teacher gave that part to {friend}, and {hero} had to be the {role}.
  "The {role} has only one line," {hero} told {hero.his} {elder}<how>. "I just say: {line}!"
  "<Then say it as well as you can|One line can be the most important one|Every part matters>," said
  {hero.his} {elder}<how>.
  So {hero} practiced that one line for {number} days<.|, even in the bathtub.|, until {hero.his} {elder}
  knew it, too.><nature>
  /
  <At last,|Then> the <curtain|red curtain> went up. {friend}, the {dream}, stepped out and opened
  {friend.his} mouth. But {friend.he} had forgotten everything!<|_It was <very|terribly> quiet.> {hero} saw
  that {friend} was close to tears. Then the {role} walked onto the stage.
  "{line}!" <called|cried|shouted> {hero}<how>. Everybody <laughed|clapped>, and {friend} remembered what
  came next.
  /
  Afterward, {friend} <hugged|ran to> {hero}. "You saved <the play|me>," {friend.he} said.
  <moral of the stage>

== moral of the stage
* "And I am glad that I was the {role}," said {hero}, "because the {dream} has far too many lines."
* For <weeks|days>, everyone at school said "{line}!" when they met {hero}.
* "You were the best {role} in the world," said {hero.his} {elder}. "{line}!"
* The next year, {friend} wanted to be the {role}.

== the spell
* [place:place][spot:place.spots][spirit:spirit][color:color][food:food][thing:thing]
  <at home> {hero.He} <loved|liked> {food} more than anything.
  /
  <one day> {hero} found {color.a} bottle {place.at}, {spot}. {hero.He} <opened it|rubbed it|shook it>, and
  out came {spirit.a}!
  "You have one wish," said the {spirit}<how>. "<Choose well|Think about it>."<|_{hero} <did not think for
  long|knew it at once|closed {hero.his} eyes>.> "I wish that everything I touch <turns|would turn> into
  {food}!"
  "<As you like|So be it>," said the {spirit}<how>.
  /
  {hero} touched <a|the first|the nearest> <chair|lamp|book|tree|fence|stone|bench|cloud of dust>, and it
  turned into {food}.<|_{hero.He} ate <and ate|until {hero.he} was full>.>
  At home, {hero.he} picked up {hero.his} {thing}. It turned into {food}, too!
  "Come here, give me a hug," said {hero.his} {elder}. But {hero} <stepped back|put {hero.his} hands behind
  {hero.his} back>. "<Stop|Do not touch me>!" {hero.he} cried.
  /
  {hero} ran back {place.to} and put the {color} bottle where it had been, {spot}. "<Please take the wish
  back|Please make it stop|Please help me>," {hero.he} begged.
  The {spirit} smiled. "<Is it too much|Did you get enough>?" it asked. "<Then go home|Then it is over>."
  <moral of wishes>

== moral of wishes
* {hero} ran home and hugged {hero.his} {elder} <very |>tightly. There was the {thing}, too, as good as new.
* {hero} kept {hero.his} {thing}, {hero.his} {elder}, and just <three|two|four> {food}. It was
  <plenty|enough>.
* It was a long time before {hero} wanted {food} again.

== animal opening
3* Once upon a time, {trait.a} {kind} <named|called> {hero} lived {wild.at}.
1* {hero} was {trait.a} {kind} who lived {wild.at}.
1* Once there was {kind.a} <named|called> {hero}. {hero.He} lived {wild.at}, and everyone knew how {trait}
   {hero.he} was.
1* Far away, {wild.at}, there lived {trait.a} {kind} <named|called> {hero}.

== animal plot
* <lost in the wild>
* <the greedy winter>
* <the odd one>
* <the journey>

== animal closing
4*
1* / The end.
1* / And {wild.at}, they still talk about {trait.a} {kind} <named|called> {hero}.
1* / {hero} thought of that {sky} {time} <for the rest of {hero.his} life|for a long, long time>.

== lost in the wild
* [first:mark][second:mark][friend:critter][other:animal][forage:forage]
  <animal opening>
  /
  <one day> {hero} followed a <butterfly|dragonfly|floating feather|strange smell> and went too far. When
  {hero.he} looked up, nothing was familiar.
  "<I am lost|I want to go home|Now what>," {hero.he} <sobbed|sighed|said>.
  "Maybe I can help," said a voice. It was {other.a} named {friend}. "What did you see on your way?"
  {hero} <closed {hero.his} eyes|thought hard>. "First I came to {first}," {hero.he} said, "and after that I
  came to {second}."
  "Then we must go back the other way around," said {friend}<how>. "<Follow me|Come along>!"
  /
  They walked to {second}, and from {second} they walked to {first}. {friend} <hummed a song|told funny
  stories> all the way.<wild nature>
  Behind {first}, {hero} saw <smoke|a light|a little door>. "<There is my home|I am home>!" {hero.he}
  <cried|shouted>.
  {hero.His} mother had made a pot of {forage}. "<Stay for dinner|Eat with us>," she said to the {other}.
  /
  <moral of the way>

== moral of the way
* So {friend} ate {forage} with the {kind} family, and it was the start of a long friendship.
* "If you ever get lost," {hero} told {friend}, "remember {first}. I live right behind it."
* Since that day, {hero} has often walked from {first} to {second}, because that is where the {other} lives.

== the greedy winter
* [forage:forage][spot:wild.spots][friend:critter][other:animal][gift:forage]
  <animal opening>
  /
  <one day> {hero} found a big pile of {forage}. "<All mine|Nobody must know>!" {hero.he} said, and
  {hero.he} hid the {forage} {spot}.<wild nature>
  <Soon|Not long after that,|The same day,> {other.a} named {friend} came by. "I am <so |very >hungry," said
  {friend}. "May I have some of your {forage}?"
  "I do not have any {forage}," said {hero}<sadly>, and {hero.he} did not even <blush|blink>.<|_The {other}
  <went away|walked on> without a word.>
  /
  <That night,|A week later,|Then> there was a <terrible|great|wild> storm. In the morning, {hero} looked
  {spot}, but the {forage} were gone.<|_The <wind|rain> had taken everything.>
  {hero} had nothing to eat for <two|three> days. Then <there was a knock|somebody called|the door opened>.
  It was {friend}, with a <basket|bag|big heap> of {gift}.
  "I found these, and I thought of you," said the {other}.
  "But I lied to you," said {hero}<sadly>. "I had {forage}, and I hid them {spot}."
  "<I know|I saw them>," said {friend}. "<But being hungry is no fun|But now you are hungry, and I am not>."
  /
  <moral of greed>

== moral of greed
* They ate the {gift} together, and {hero} was <ashamed|very quiet>.
* The next time {hero} found {forage}, {hero.he} took them all to {friend}.
* From then on, whatever lay {spot} belonged to both the {kind} and the {other}.

== the odd one
* [flaw:flaw][friend:critter][other:animal][game:game]
  <animal opening>
  /
  <one day> the animals <met to play|wanted to play|were playing> {game}. "May I play, too?" asked
  {hero}<how>.
  "No," said {other.a} named {friend}. "You are too {flaw} for {game}."<|_<The others laughed|Nobody said a
  word>, and {hero} went away.><wild nature>
  "I wish I were not so {flaw}," {hero.he} <thought|sighed>.
  /
  But in the middle of the game, there was <trouble|a shout>. {friend} {flaw.crisis}!
  "<Help|Somebody help>!" cried the {other}.<|_Nobody knew what to do.>
  Then {hero} came. {hero.He} {flaw.rescue}. A <moment|minute> later, {friend} was <safe|free|back on solid
  ground>.
  /
  "I said that you were too {flaw}," said {friend}, "and I am sorry. <Without you I would be lost|You saved
  me>."
  <moral of being odd>

== moral of being odd
* "Maybe I am just {flaw} enough," said {hero}.
* Then they all played {game}, and the {kind} was <chosen first|on the best team>.
* After that, every <child|animal> <in the land|for miles around> wanted to be as {flaw} as {hero}.
* "It is good to have {kind.a} around," said the {other}, "and the more {flaw}, the better."

== the journey
* [wonder:wonder][number:number][guide:animal][mark:mark][friend:critter][other:animal][forage:forage]
  <animal opening> {hero.He} had never seen {wonder}.
  /
  <one day> {hero.he} asked the old {guide}, who knew everything. "Where can I see {wonder}?"
  "Walk for {number} days," said the {guide}<how>, "and when you come to {mark}, wait there until
  <dawn|night>."
  {hero} <packed|took along> some {forage} and asked {hero.his} friend {friend}, {other.a}, to come
  along.<|_<They walked over hills and through rivers.|It rained, and their feet hurt.|The path was long and
  steep.>><wild nature>
  /
  On the <second|third> day, the {other} sat down. "I am too tired," said {friend}<sadly>. "<Let us go
  home|I do not want to see {wonder} anymore>."
  {hero} gave {friend.him} the last of the {forage}.<|_"<Just a little farther|Think of {wonder}>,"
  {hero.he} said.>
  /
  After {number} days, they came to {mark}. They waited, just as the {guide} had <told them|said>. <And
  then|And there, at last,> they saw {wonder}!
  <moral of the journey>

== moral of the journey
* "It is <more beautiful|even better> than I thought," {friend} whispered. "I am glad that you shared your
  {forage}."
* They looked and looked, and neither the {kind} nor the {other} said a word.
* On the way home, they stopped at {mark} once more, because neither of them wanted to forget.
* When they came home, they thanked the old {guide} with a basket of {forage}.
"""

_INDOORS = {
    "library",
    "museum",
    "train station",
    "toy shop",
    "bakery",
    "attic",
    "barn",
    "bookshop",
    "swimming pool",
}
_PLACES["outside"] = [place for place in _PLACES["place"] if place["word"] not in _INDOORS]

RULES = _PEOPLE | _THINGS | _FOOD | _PLACES | _ACTIONS | _TROUBLES | _TIMES | _rules(_PLOTS)
