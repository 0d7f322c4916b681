// Where a model comes from: a document or an address.
package dev.hotset.sample.ui

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.material3.Button
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Scaffold
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.unit.dp
import dev.hotset.sample.R

@Composable
fun ChooseScreen(error: String?, onPick: () -> Unit, onDownload: (String) -> Unit) {
    var address by rememberSaveable { mutableStateOf("") }
    Scaffold { inner ->
        Column(
            modifier = Modifier.fillMaxSize().padding(inner).padding(24.dp),
            verticalArrangement = Arrangement.spacedBy(16.dp),
        ) {
            Text(stringResource(R.string.choose_title), style = MaterialTheme.typography.headlineMedium)
            Text(stringResource(R.string.choose_text))
            Button(onClick = onPick, modifier = Modifier.fillMaxWidth()) { Text(stringResource(R.string.pick)) }
            OutlinedTextField(
                value = address,
                onValueChange = { address = it },
                label = { Text(stringResource(R.string.url)) },
                singleLine = true,
                modifier = Modifier.fillMaxWidth(),
            )
            OutlinedButton(onClick = { onDownload(address) }, enabled = address.isNotBlank(), modifier = Modifier.fillMaxWidth()) {
                Text(stringResource(R.string.download))
            }
            if (error != null) Text(error, color = MaterialTheme.colorScheme.error)
        }
    }
}
