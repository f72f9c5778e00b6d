"""The drawing of people, their motions and places, and captions that say what happens and never who it is.

Public: `people`, `draw_clips`, `draw_photos`, `caption`, through `lavieid_adapters.puppets`. Of the rest of the package
it imports the names of the components alone (`models.identity`).
"""
