"""Where an application begins: ``definition`` names its entities, ``system`` starts them, ``running`` runs them."""
