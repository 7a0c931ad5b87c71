"""What an application uses: ``definition`` names its entities, ``system`` starts them, ``running`` runs them."""
